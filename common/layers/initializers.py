"""Initialisers that `flax.linen.initializers` does not have."""

import jax
import jax.numpy as jnp
from flax.linen import initializers

from common.array_types import Array


def fan_in_uniform() -> initializers.Initializer:
  """Uniform within +-1 / sqrt(fan-in): what PyTorch gives kernels unasked."""
  return initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def uniform_within(limit: float) -> initializers.Initializer:
  """Uniform within +-limit, for biases, whose shape has no fan-in."""

  def initialise(
    key: Array,
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike = jnp.float32,
    out_sharding: object = None,
  ) -> Array:
    del out_sharding
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return initialise
