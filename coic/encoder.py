"""The encoder, which sees what kind of rain and of scene a picture shows."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax

from coic.modulation import EMBEDDING_FEATURES
from coic.unit_vectors import unit_vectors
from common import image_ops, layers
from common.array_types import (
  Array,
  at_least_float32,
  require_floating,
  require_rank,
  Variables,
)
from common.layers import BatchNorm, fan_in_uniform, uniform_within

_BLOCKS = 3
_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.1)


class Encoding(NamedTuple):
  """What the encoder says of a batch of pictures.

  Attributes:
    embedding: z, which modulates a network, a unit vector for each picture,
      float32 [b, embedding_features].
    features: what the contrastive loss compares, a unit vector at each place,
      float32 [b, h / 8, w / 8, features]; sizes are rounded up.
  """

  embedding: Array
  features: Array


class _Block(nn.Module):
  """Two convolutions beside a shortcut, at half the resolution."""

  features: int
  axis_name: str | None
  dtype: jax.typing.DTypeLike | None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, c] to [b, h / 2, w / 2, features]."""

    def norm(x: Array, name: str) -> Array:
      return BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name=name)(
        x, train=train
      )

    halved = functools.partial(
      _conv, self.features, strides=2, use_bias=False, dtype=self.dtype
    )
    residual = norm(halved(x, name='conv1'), 'norm1')
    residual = _conv(
      self.features, _leaky_relu(residual), dtype=self.dtype, name='conv2'
    )
    shortcut = halved(x, kernel_size=(1, 1), padding=0, name='shortcut_conv')
    return _leaky_relu(
      norm(residual, 'norm2') + norm(shortcut, 'shortcut_norm')
    )


class Encoder(nn.Module):
  """Embeds a picture, and its places, on spheres.

  Rain and scene alike go into the embedding, which the modulated layers take
  in. 1,257,664 parameters as it stands.

  Attributes:
    features: channels of the first layer; each of the blocks doubles them.
    embedding_features: width of z.
    axis_name: device axis to take batch statistics over; None means this
      device's batch.
    dtype: of the convolutions, bfloat16 say; None means float32. Statistics,
      lengths and the layers after the pooling are float32 in any case.

  Source: Ran et al., "Harnessing Joint Rain-/Detail-aware Representations to
  Eliminate Intricate Rains", ICLR 2024; the architecture is that of AirNet
  (Li et al., CVPR 2022).
  """

  features: int = 32
  embedding_features: int = EMBEDDING_FEATURES
  axis_name: str | None = None
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, image: Array, *, train: bool = False) -> Encoding:
    """Encodes pictures.

    Args:
      image: RGB in [0, 1], float [b, h, w, 3] of any size.
      train: use batch statistics (apply with `mutable=['batch_stats']`).

    Returns:
      See `Encoding`; its features have 8 times the channels of the first
      layer.

    Raises:
      ValueError: the image is not floating or not [b, h, w, 3].
    """
    require_floating(image=image)
    require_rank(4, image=image)
    if image.shape[-1] != 3:
      raise ValueError(f'image {list(image.shape)} must be [b, h, w, 3]')
    x = at_least_float32(image)
    x = _conv(self.features, x, dtype=self.dtype, name='stem')
    for i in range(1, _BLOCKS + 1):
      x = _Block(
        2**i * self.features, self.axis_name, self.dtype, name=f'block{i}'
      )(x, train)
    x = at_least_float32(x)
    z = _linear(self.embedding_features, x.mean((1, 2)), name='linear1')
    z = _linear(self.embedding_features, _leaky_relu(z), name='linear2')
    return Encoding(unit_vectors(z), unit_vectors(x))


def embed(
  encoder: Encoder,
  variables: Variables,
  image: Array,
  *,
  size: int = 128,
  antialias: bool = False,
) -> Array:
  """Embeddings for restoring images: of the whole image, made small.

  Args:
    encoder: the encoder.
    variables: its parameters and running statistics; after training with
      momentum, those of the momentum encoder.
    image: rainy RGB in [0, 1], float [b, h, w, 3].
    size: side in pixels of what the encoder sees; the aspect ratio is not
      kept.
    antialias: see `common.image_ops.resize_bilinear`; published networks were
      most likely trained without.

  Returns:
    Unit vectors z, float32 [b, embedding_features].

  Raises:
    ValueError: the image is not floating or not [b, h, w, 3].

  Source: CoIC, the published test programs.
  """
  small = image_ops.resize_bilinear(image, size, antialias=antialias)
  embedding, _ = encoder.apply(variables, small)
  return embedding


def _conv(
  features: int,
  x: Array,
  *,
  kernel_size: tuple[int, int] = (3, 3),
  strides: int = 1,
  padding: int = 1,
  use_bias: bool = True,
  dtype: jax.typing.DTypeLike | None,
  name: str,
) -> Array:
  """A convolution inside the calling module, initialised as in PyTorch."""
  fan_in = kernel_size[0] * kernel_size[1] * x.shape[-1]
  return layers.Conv(
    features,
    kernel_size,
    strides,
    padding,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=fan_in_uniform(),
    bias_init=uniform_within(fan_in**-0.5),
    name=name,
  )(x)


def _linear(features: int, x: Array, *, name: str) -> Array:
  """A linear layer inside the calling module, initialised as in PyTorch."""
  return nn.Dense(
    features,
    kernel_init=fan_in_uniform(),
    bias_init=uniform_within(x.shape[-1] ** -0.5),
    name=name,
  )(x)
