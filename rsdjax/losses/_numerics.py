"""Functions whose derivative stays finite where the plain form's does not."""

import jax.numpy as jnp

from common.array_types import Array


def safe_sqrt(x: Array) -> Array:
  """Square root of x >= 0 whose derivative at 0 is 0, as in PyTorch."""
  positive = x > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
