"""The U-Net of DGUNet."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from coic.modulation import ModulatedConv, ModulatedConvTranspose
from common.array_types import Array

Options = Mapping[str, Any]

LEVELS = 4  # Each but the last halves the sides.


class UNetBlock(nn.Module):
  """Two convolutions beside a shortcut; and in encoders what came before.

  Attributes:
    features: channels of the result.
    half_normalised: normalise the first half of the channels, each image for
      itself, after the first convolution.
    layer_options: of the modulated layers.
  """

  features: int
  half_normalised: bool
  layer_options: Options

  @nn.compact
  def __call__(
    self, x: Array, z: Array | None, before: tuple[Array, Array] | None = None
  ) -> Array:
    """Maps [b, h, w, c] to [b, h, w, features].

    Args:
      x: float [b, h, w, c].
      z: embeddings, or None.
      before: encoded [b, h, w, features] and decoded [b, h, w, c] features of
        this level, of the stage before.
    """

    def conv(x: Array, name: str, size: int = 3) -> Array:
      return ModulatedConv(
        self.features, size, name=name, **self.layer_options
      )(x, z)

    shortcut = conv(x, 'shortcut', 1)
    x = conv(x, 'conv1')
    if self.half_normalised:
      half = self.features // 2
      normalised = nn.InstanceNorm(
        epsilon=1e-5, use_fast_variance=False, dtype=x.dtype, name='norm'
      )(x[..., :half])
      x = jnp.concatenate([normalised, x[..., half:]], axis=-1)
    x = conv(nn.leaky_relu(x, 0.2), 'conv2')
    x = nn.leaky_relu(x, 0.2) + shortcut
    if before is None:
      return x
    encoded, decoded = before
    skip = conv(encoded, 'encoded') + conv(decoded, 'decoded')
    skip = nn.leaky_relu(skip, 0.1)
    return x * nn.sigmoid(conv(skip, 'gate')) + conv(skip, 'offset') + x


class UpBlock(nn.Module):
  """Doubles the resolution and takes in what the encoder had there."""

  features: int
  layer_options: Options

  @nn.compact
  def __call__(self, x: Array, bridge: Array, z: Array | None) -> Array:
    """Maps [b, h, w, c] and [b, 2h, 2w, features] to the latter's shape."""
    x = ModulatedConvTranspose(
      self.features, 2, 2, name='up', **self.layer_options
    )(x, z)
    return UNetBlock(self.features, False, self.layer_options, name='block')(
      jnp.concatenate([x, bridge], axis=-1), z
    )


class UNet(nn.Module):
  """Encoder and decoder.

  Attributes:
    features: channels of the input.
    step: channels that each halving of the resolution adds.
    layer_options: of the modulated layers.
  """

  features: int
  step: int
  layer_options: Options

  @nn.compact
  def __call__(
    self,
    x: Array,
    z: Array | None,
    before: Sequence[tuple[Array, Array]] | None = None,
  ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Encodes and decodes.

    Args:
      x: float [b, h, w, features].
      z: embeddings, or None.
      before: encoded and decoded features of the stage before, level by level
        from full resolution down.

    Returns:
      The encoded and the decoded features, in the same order: encoded ones of
      features + step, features + 2 step and so on channels, and decoded ones
      of `step` less.
    """
    encoded: list[Array] = []
    for level in range(1, LEVELS):
      width = self.features + level * self.step
      x = UNetBlock(width, True, self.layer_options, name=f'encoder{level}')(
        x, z, before[level - 1] if before else None
      )
      encoded.append(x)
      x = ModulatedConv(
        width,
        4,
        2,
        padding=1,
        use_bias=False,
        name=f'down{level}',
        **self.layer_options,
      )(x, z)
    x = UNetBlock(
      x.shape[-1], True, self.layer_options, name=f'encoder{LEVELS}'
    )(x, z)
    decoded: list[Array] = []
    for level in reversed(range(1, LEVELS)):
      width = self.features + (level - 1) * self.step
      bridge = ModulatedConv(
        width, 3, name=f'skip{level}', **self.layer_options
      )(encoded[level - 1], z)
      x = UpBlock(width, self.layer_options, name=f'decoder{level}')(
        x, bridge, z
      )
      decoded.insert(0, x)
    return tuple(encoded), tuple(decoded)
