"""DGUNet: the deep generalised unfolding network, its weights shared."""

import functools
from typing import get_args, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from coic.models.backbone import Backbone, Outputs
from coic.models.unet import LEVELS, Options, UNet
from coic.modulation import ModulatedConv
from common import layers
from common.array_types import Array, at_least_float32

Inverse = Literal['regularised', 'published']

_REGULARISATION = 1e-6


class _State(NamedTuple):
  """What one stage hands to the next."""

  image: Array  # [b, h, w, 3].
  features: Array  # [b, h, w, features].
  encoded: tuple[Array, ...]  # Of each level, from full resolution down.
  decoded: tuple[Array, ...]  # The same.


def project(
  values: Array, rows: Array, *, inverse: Inverse = 'regularised'
) -> Array:
  """Projects the channels of a map onto the span of others.

  With V the rows, each divided by 1e-6 and the sum of its absolute values, and
  G = V V^T, it is V^T G^-1 V times the values. Rows become alike where an
  image is constant, and G singular.

  Args:
    values: float [b, positions, c].
    rows: float [b, positions, n].
    inverse: 'regularised' adds 1e-6 times the mean of its diagonal to G, by
      way of an orthogonal basis; the equations themselves, solved in float32,
      lose up to a tenth of the result or break down. 'published' inverts G as
      it is.

  Returns:
    Float [b, positions, c], at least float32, and computed in it.

  Raises:
    ValueError: the inverse is neither.

  Source: DGUNet, the fusion of features across stages.
  """
  if inverse not in get_args(Inverse):
    raise ValueError(f'inverse {inverse!r} must be one of {get_args(Inverse)}')
  values, rows = at_least_float32(values), at_least_float32(rows)
  rows /= 1e-6 + jnp.abs(rows).sum(1, keepdims=True)
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  if inverse == 'published':
    gram = product('bpn,bpm->bnm', rows, rows)
    weights = jnp.linalg.solve(gram, product('bpn,bpc->bnc', rows, values))
    return product('bpn,bnc->bpc', rows, weights)
  # A ridge is what more rows below, orthogonal to one another, make.
  _, positions, n = rows.shape
  ridge = _REGULARISATION / n * jnp.square(rows).sum((1, 2), keepdims=True)
  # Its share of rows that are all zero is zero. No others sum to so little.
  ridge += _REGULARISATION**2 / positions
  below = jnp.sqrt(ridge) * jnp.eye(n, dtype=rows.dtype)[None]
  basis = jnp.linalg.qr(jnp.concatenate([rows, below], axis=1)).Q
  basis = basis[:, :positions]
  weights = product('bpn,bpc->bnc', basis, values)
  return product('bpn,bnc->bpc', basis, weights)


class ResidualBlock(nn.Module):
  """Two convolutions beside the input, which is an image."""

  layer_options: Options

  @nn.compact
  def __call__(self, x: Array, z: Array | None) -> Array:
    """Maps [b, h, w, c] to the same shape."""
    residual = ModulatedConv(64, 3, name='conv1', **self.layer_options)(x, z)
    residual = _prelu(residual, _slope(self, 'slope'))
    residual = ModulatedConv(
      x.shape[-1], 3, name='conv2', **self.layer_options
    )(residual, z)
    return residual + x


class GradientStep(nn.Module):
  """Moves a restored image towards what explains the given one."""

  layer_options: Options

  @nn.compact
  def __call__(self, restored: Array, image: Array, z: Array | None) -> Array:
    """Gives the new image, at least float32 [b, h, w, 3]."""
    degraded = ResidualBlock(self.layer_options, name='degradation')(
      restored, z
    )
    gradient = ResidualBlock(self.layer_options, name='adjoint')(
      degraded - image, z
    )
    size = self.param('size', nn.initializers.constant(0.5), (1,))
    return restored - size[0] * gradient


class ChannelAttentionBlock(nn.Module):
  """Two convolutions, whose channels are gated, beside the input."""

  layer_options: Options

  @nn.compact
  def __call__(self, x: Array, slope: Array, z: Array | None) -> Array:
    """Maps [b, h, w, c] to the same shape; slope [1] of the PReLU."""
    features = x.shape[-1]
    conv = functools.partial(
      ModulatedConv, features, 3, use_bias=False, **self.layer_options
    )
    residual = _prelu(conv(name='conv1')(x, z), slope)
    residual = conv(name='conv2')(residual, z)
    gate = at_least_float32(residual).mean((1, 2), keepdims=True)
    gate = _plain_conv(features // 4, gate, 'attention1')
    gate = nn.sigmoid(_plain_conv(features, nn.relu(gate), 'attention2'))
    return residual * gate.astype(residual.dtype) + x


class Stem(nn.Module):
  """Image to features."""

  features: int
  layer_options: Options

  @nn.compact
  def __call__(self, image: Array, slope: Array, z: Array | None) -> Array:
    """Maps [b, h, w, 3] to [b, h, w, features]; slope [1] of the PReLU."""
    x = ModulatedConv(
      self.features, 3, use_bias=False, name='conv', **self.layer_options
    )(image, z)
    return ChannelAttentionBlock(self.layer_options, name='attention')(
      x, slope, z
    )


class SupervisedAttention(nn.Module):
  """Features to an image, and to what the next stage takes of them."""

  layer_options: Options

  @nn.compact
  def __call__(
    self, x: Array, image: Array, z: Array | None
  ) -> tuple[Array, Array]:
    """Maps [b, h, w, c] and [b, h, w, 3] to the same shapes."""
    conv = functools.partial(
      ModulatedConv, kernel_size=1, use_bias=False, **self.layer_options
    )
    features = conv(features=x.shape[-1], name='features')(x, z) + x
    return features, conv(features=3, name='image')(x, z) + image


class Merge(nn.Module):
  """Features, with those of the stage before projected onto a subspace."""

  subspace: int
  inverse: Inverse
  layer_options: Options

  @nn.compact
  def __call__(self, x: Array, bridge: Array, z: Array | None) -> Array:
    """Maps two [b, h, w, c] to the same shape."""
    batch, height, width, features = x.shape
    rows = ModulatedConv(
      self.subspace, 3, name='subspace', **self.layer_options
    )(jnp.concatenate([x, bridge], axis=-1), z)
    projected = project(
      bridge.reshape(batch, height * width, features),
      rows.reshape(batch, height * width, self.subspace),
      inverse=self.inverse,
    )
    projected = projected.reshape(bridge.shape).astype(x.dtype)
    return x + ModulatedConv(features, 3, name='output', **self.layer_options)(
      jnp.concatenate([x, projected], axis=-1), z
    )


class _Iteration(nn.Module):
  """A stage between the first and the last."""

  features: int
  step: int
  subspace: int
  inverse: Inverse
  layer_options: Options

  @nn.compact
  def __call__(
    self, state: _State, image: Array, z: Array | None
  ) -> tuple[_State, Array]:
    """Gives the new state, and its image for all outputs."""
    x = GradientStep(self.layer_options, name='step')(state.image, image, z)
    features = Stem(self.features, self.layer_options, name='stem')(
      x, _slope(self, 'stem_slope'), z
    )
    features = Merge(
      self.subspace, self.inverse, self.layer_options, name='merge'
    )(features, state.features, z)
    encoded, decoded = UNet(
      self.features, self.step, self.layer_options, name='unet'
    )(features, z, list(zip(state.encoded, state.decoded, strict=True)))
    features, restored = SupervisedAttention(
      self.layer_options, name='attention'
    )(decoded[0], x, z)
    return _State(restored, features, encoded, decoded), restored


class DGUNet(Backbone):
  """Gradient steps on the image, each followed by a U-Net.

  The steps go along a degradation and an adjoint that are learned. Between a
  first and a last stage, iterations share their weights, and each takes in the
  features of the one before. For images whose sides are divisible by 8.

  Attributes:
    features: channels at full resolution.
    step: channels that each halving of the resolution adds.
    extra: channels that the last stage adds.
    iterations: number of stages between the first and the last.
    subspace: dimensions of the span that features of the stage before are
      projected onto.
    inverse: 'regularised' or 'published', see `project`.

  Differs from the reference: the inverse is regularised, unless it is to be
  the published one, with which training ends in NaN now and then.

  Source: Mou et al., "Deep Generalized Unfolding Networks for Image
  Restoration", CVPR 2022; with modulation as in CoIC.
  """

  features: int = 40
  step: int = 20
  extra: int = 16
  iterations: int = 5
  subspace: int = 16
  inverse: Inverse = 'regularised'

  @property
  def side_multiple(self) -> int:
    """8, since the U-Nets halve the images three times."""
    return 2 ** (LEVELS - 1)

  @nn.compact
  def __call__(
    self,
    image: Array,
    z: Array | None = None,
    *,
    train: bool = False,
    all_outputs: bool = False,
  ) -> Array | Outputs:
    """Restores images; see `Backbone`.

    With `all_outputs` it also gives 'stages', the images after each stage, the
    newest and thus the restored one first, float32 [iterations + 2, b, h, w,
    3].

    Raises:
      ValueError: also if a side of the image is not divisible by 8.
    """
    del train
    self._check(image, z)
    image = at_least_float32(image)
    options = self._layer_options()
    # One slope for the stems of the first and the last stage, as published.
    slope = _slope(self, 'stem_slope')

    x = GradientStep(options, name='first_step')(image, image, z)
    features = Stem(self.features, options, name='first_stem')(x, slope, z)
    encoded, decoded = UNet(
      self.features, self.step, options, name='first_unet'
    )(features, z)
    features, first = SupervisedAttention(options, name='first_attention')(
      decoded[0], x, z
    )

    iterations = nn.scan(
      nn.remat(_Iteration, prevent_cse=False) if self.remat else _Iteration,
      variable_broadcast='params',
      variable_axes={'intermediates': 0},
      split_rngs={'params': False},
      in_axes=nn.broadcast,
      length=self.iterations,
    )
    state, stages = iterations(
      self.features,
      self.step,
      self.subspace,
      self.inverse,
      options,
      name='iteration',
    )(_State(first, features, encoded, decoded), image, z)

    x = GradientStep(options, name='last_step')(state.image, image, z)
    features = Stem(self.features, options, name='last_stem')(x, slope, z)
    features = jnp.concatenate([features, state.features], axis=-1)
    for name, width in (('last', self.features + self.extra), ('output', 3)):
      features = ModulatedConv(width, 3, use_bias=False, name=name, **options)(
        features, z
      )
    restored = image + features
    if not all_outputs:
      return restored
    stages = jnp.concatenate([restored[None], stages[::-1], first[None]])
    return {'restored': restored, 'stages': stages}


def _plain_conv(features: int, x: Array, name: str) -> Array:
  """A 1x1 convolution inside the calling module."""
  return layers.Conv(
    features,
    kernel_size=(1, 1),
    padding=0,
    use_bias=False,
    kernel_init=layers.fan_in_uniform(),
    name=name,
  )(x)


def _slope(module: nn.Module, name: str) -> Array:
  """The slope of a PReLU as a parameter of a module, [1]."""
  return module.param(name, nn.initializers.constant(0.25), (1,))


def _prelu(x: Array, slope: Array) -> Array:
  return jnp.where(x > 0, x, slope[0].astype(x.dtype) * x)
