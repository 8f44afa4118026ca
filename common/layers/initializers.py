"""Initialisers as those of `flax.linen.initializers`, of far fewer programs.

XLA compiles random numbers anew for each shape, and takes the longer the more
axes they have: on CPUs seconds for the kernel of a convolution. So these draw
along one axis, as many as a power of two, which many shapes share. The numbers
are Flax's to rounding: a longer draw begins like a shorter one (where
`jax_threefry_partitionable` is on, as it is by default).
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer
from jax.typing import DTypeLike

from common.array_types import Array

Distribution = Literal['normal', 'truncated_normal', 'uniform']
Mode = Literal['fan_in', 'fan_out', 'fan_avg']


def normal(deviation: float) -> Initializer:
  """Normal around 0, with such a standard deviation."""
  return _initializer('normal', lambda shape: deviation)


def uniform_within(limit: float) -> Initializer:
  """Uniform within +-limit, for biases, whose shape has no fan-in."""
  return _initializer('uniform', lambda shape: limit)


def variance_scaling(
  scale: float, mode: Mode, distribution: Distribution
) -> Initializer:
  """Values around 0 whose variance is a scale over a fan.

  Args:
    scale: of the variance.
    mode: 'fan_in' (inputs of an output), 'fan_out' (outputs of an input), or
      'fan_avg' (their mean), for kernels [..., in, out].
    distribution: 'normal', 'truncated_normal' at two standard deviations, or
      'uniform'.

  Returns:
    An initialiser.
  """

  def factor(shape: tuple[int, ...]) -> float:
    *window, inputs, outputs = shape
    fans = {
      'fan_in': float(inputs),
      'fan_out': float(outputs),
      'fan_avg': (inputs + outputs) / 2,
    }
    variance = scale / (math.prod(window) * fans[mode])
    return math.sqrt(variance / _VARIANCES[distribution])

  return _initializer(distribution, factor)


def fan_in_uniform() -> Initializer:
  """Uniform within +-1 / sqrt(fan-in): what PyTorch gives kernels unasked."""
  return variance_scaling(1 / 3, 'fan_in', 'uniform')


def lecun_normal() -> Initializer:
  """Truncated normal of variance 1 / fan-in: Flax's own for kernels."""
  return variance_scaling(1.0, 'fan_in', 'truncated_normal')


def xavier_uniform() -> Initializer:
  """Uniform of variance 1 / mean fan."""
  return variance_scaling(1.0, 'fan_avg', 'uniform')


def _uniform(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
  return jax.random.uniform(key, shape, dtype, minval=-1.0)


def _truncated_normal(
  key: Array, shape: tuple[int, ...], dtype: DTypeLike
) -> Array:
  return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


_DRAWS: dict[Distribution, Callable[..., Array]] = {
  'normal': jax.random.normal,
  'truncated_normal': _truncated_normal,
  'uniform': _uniform,
}
_VARIANCES: dict[Distribution, float] = {
  'normal': 1.0,
  'truncated_normal': 0.87962566103423978**2,
  'uniform': 1 / 3,
}


def _initializer(
  distribution: Distribution, factor: Callable[[tuple[int, ...]], float]
) -> Initializer:
  """Draws, times a factor that depends on the shape."""

  def initialise(
    key: Array,
    shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
    out_sharding: object = None,
  ) -> Array:
    del out_sharding
    length = 1 << (math.prod(shape) - 1).bit_length()
    values = _DRAWS[distribution](key, (length,), dtype)
    return _scaled(values, factor(shape), tuple(shape))

  return initialise


@functools.partial(jax.jit, static_argnames='shape')
def _scaled(values: Array, factor: Array, shape: tuple[int, ...]) -> Array:
  """The first values, times a factor, in a shape."""
  return (values[: math.prod(shape)] * factor).reshape(shape)
