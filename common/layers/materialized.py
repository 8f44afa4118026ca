"""Arrays that are computed once, where a compiler would do it many times."""

import jax
import jax.numpy as jnp

from common.array_types import Array


def materialized(x: Array) -> Array:
  """The same array, put into memory before anything uses it; on CPUs.

  XLA's CPU backend fuses a cheap producer into each of its consumers, a sum
  along a residual network too: block k then adds up the branches of all blocks
  before it, and the gradient of block k those of all after it. Time and the
  size of the program grow with the square of the depth. The backend takes
  `jax.lax.optimization_barrier` out before it fuses, but not a condition that
  it cannot know to be false. Its derivative is of the same kind, so gradients
  are put into memory at the same place. Accelerators fuse less, and get x.

  Args:
    x: float array.

  Returns:
    x.
  """
  if jax.default_backend() != 'cpu' or x.size == 0:
    return x
  never = x[(0,) * x.ndim] > jnp.inf
  return jax.lax.cond(never, lambda x: 2 * x, lambda x: x, x)
