"""Vectors of length one."""

import jax.numpy as jnp

from common.array_types import Array, at_least_float32

_SHORTEST = 1e-12


def unit_vectors(x: Array) -> Array:
  """Divides vectors by their length, or by 1e-12 if they are shorter.

  Args:
    x: float [..., features], a vector at each place.

  Returns:
    Float32 or better [..., features].

  Differs from the reference: a vector of zeros has a gradient of zero, where
  the reference's is 1e12 times the incoming one.

  Source: CoIC, the published program.
  """
  x = at_least_float32(x)
  squares = jnp.square(x).sum(axis=-1, keepdims=True)
  positive = squares > 0
  length = jnp.sqrt(jnp.where(positive, squares, 1.0))
  return jnp.where(positive, x / jnp.maximum(length, _SHORTEST), 0.0)
