"""The blocks of MSResNet, which the other networks share."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from common import layers
from common.array_types import Array, at_least_float32
from common.layers import BatchNorm, initializers, materialized

he_normal = initializers.variance_scaling(2.0, 'fan_in', 'normal')
Conv = functools.partial(layers.Conv, use_bias=False, kernel_init=he_normal)
leaky_relu = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)


class PReLU(nn.Module):
  """A rectifier with one learned slope for all negative values.

  The slope is free: the published ones are mostly negative.
  """

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [...] to [...]."""
    slope = self.param('slope', nn.initializers.constant(0.25), (1,))
    return jnp.where(x >= 0, x, x * slope.astype(x.dtype)[0])


class ChannelAttention(nn.Module):
  """Gates the channels by what they hold on average.

  Attributes:
    hidden_features: units between the two linear maps.
    use_bias: whether these have biases.
    dtype: of the computation.

  Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, section 3.
  """

  hidden_features: int = 4
  use_bias: bool = False
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [b, h, w, c] to [b, h, w, c]."""
    linear = functools.partial(
      nn.Dense,
      use_bias=self.use_bias,
      kernel_init=he_normal,
      dtype=self.dtype,
    )
    pooled = at_least_float32(x).mean((1, 2), keepdims=True).astype(x.dtype)
    hidden = nn.relu(linear(self.hidden_features, name='squeeze')(pooled))
    return x * nn.sigmoid(linear(x.shape[-1], name='excite')(hidden))


class Unit(nn.Module):
  """Convolution, BatchNorm, activation.

  Attributes:
    features: channels of the output.
    activation: module or function after the normalisation.
    attention: gate the channels between the two.
    dtype: of the computation.
    axis_name: device axis of the BatchNorm statistics.
  """

  features: int
  activation: Callable[[Array], Array] | None = None
  attention: bool = False
  dtype: jax.typing.DTypeLike | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, c] to [b, h, w, features]."""
    x = Conv(self.features, dtype=self.dtype, name='conv')(x)
    x = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name='norm')(
      x, train=train
    )
    if self.attention:
      x = ChannelAttention(dtype=self.dtype, name='attention')(x)
    return x if self.activation is None else self.activation(x)


class MultiScaleBlock(nn.Module):
  """Three branches of dilated convolutions, summed, beside a shortcut.

  Attributes:
    features: channels.
    attention: gate the channels of the sum.
    dtype: of the computation.
    axis_name: device axis of the BatchNorm statistics.
  """

  features: int
  attention: bool = True
  dtype: jax.typing.DTypeLike | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, c >= features] to [b, h, w, features]."""
    branches = []
    for dilation in (1, 2, 3):
      branch = x
      for position in ('first', 'second'):
        branch = Conv(
          self.features,
          kernel_dilation=dilation,
          padding=dilation,
          use_bias=True,
          dtype=self.dtype,
          name=f'{position}_dilation{dilation}',
        )(branch)
        branch = leaky_relu(branch)
      branches.append(branch)
    total = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name='norm')(
      functools.reduce(jnp.add, branches), train=train
    )
    if self.attention:
      total = ChannelAttention(dtype=self.dtype, name='attention')(total)
    return materialized(total + x[..., : self.features])


class ResidualBlock(nn.Module):
  """Four units with two shortcuts, then a fifth convolution and a gate.

  Attributes:
    features: channels.
    attention: gate the channels at the end.
    dtype: of the computation.
    axis_name: device axis of the BatchNorm statistics.
  """

  features: int
  attention: bool = True
  dtype: jax.typing.DTypeLike | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, features] to the same shape; adds no last shortcut."""

    def unit(number: int, x: Array) -> Array:
      name = f'unit{number}'
      x = Unit(
        self.features, dtype=self.dtype, axis_name=self.axis_name, name=name
      )(x, train)
      return PReLU(name=f'{name}_activation')(x)

    x = materialized(unit(2, unit(1, x)) + x)
    x = materialized(unit(4, unit(3, x)) + x)
    return Unit(
      self.features,
      attention=self.attention,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name='last',
    )(x, train)


class ConcatenatingBlock(nn.Module):
  """Two units whose outputs are kept beside the input, then a convolution.

  Attributes: as of `ResidualBlock`.
  """

  features: int
  attention: bool = True
  dtype: jax.typing.DTypeLike | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, features] to the same shape; adds no shortcut."""
    unit = functools.partial(
      Unit,
      self.features,
      attention=self.attention,
      dtype=self.dtype,
      axis_name=self.axis_name,
    )
    first = unit(activation=leaky_relu, name='branch1')(x, train)
    second = unit(name='branch2')(first, train)
    joined = jnp.concatenate([x, first, second], axis=-1)
    return unit(name='last')(joined, train)
