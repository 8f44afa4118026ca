"""How often, and in which order, XLA's CPU backend computes arrays."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from common import distributed
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
    x: float array, or one of integers below the largest of their type.

  Returns:
    x.
  """
  if jax.default_backend() != 'cpu' or x.size == 0:
    return x
  return jax.lax.cond(_never(x), lambda x: 2 * x, lambda x: x, x)


def after(x: Array, *others: Array) -> Array:
  """The same array, for what is to be computed when others have been; on CPUs.

  XLA's CPU backend knows no order but that of what follows from what, and
  often chooses one that holds far more at a time than is needed.

  Args:
    x: float array.
    *others: arrays as `materialized` takes, none of them empty.

  Returns:
    x.
  """
  if jax.default_backend() != 'cpu':
    return x
  never = functools.reduce(jnp.logical_or, map(_never, others))
  return x * jnp.where(never, 2, 1).astype(x.dtype)


def parameters_first(x: Array, *parameters: Array | None) -> tuple[Any, ...]:
  """The same arrays; on CPUs, the gradient of x waits for those of the others.

  XLA's CPU backend puts off the gradients of parameters to the end of the
  backward pass, and keeps until then all that they follow from. There is no
  derivative of forward mode on CPUs.

  Args:
    x: float array, input of a layer.
    *parameters: float arrays of the layer, none of them empty, or None.
  """
  arrays = (x, *parameters)
  if jax.default_backend() != 'cpu':
    return arrays
  return _in_order(distributed.varying_like(arrays, arrays))


@jax.custom_vjp
def _in_order(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
  return arrays


def _in_order_forward(
  arrays: tuple[Any, ...],
) -> tuple[tuple[Any, ...], None]:
  return arrays, None


def _in_order_backward(
  _: None, gradients: tuple[Any, ...]
) -> tuple[tuple[Any, ...]]:
  of_x, *of_parameters = gradients
  return ((after(of_x, *jax.tree.leaves(of_parameters)), *of_parameters),)


_in_order.defvjp(_in_order_forward, _in_order_backward)


def recomputed(function: Callable[..., Array], *arrays: Array | None) -> Array:
  """The function of the arrays; on CPUs, its gradient keeps only them.

  What the function computes on the way is computed anew. `jax.checkpoint` would
  be to no purpose: XLA's CPU backend merges the second computation with the
  first. There is no derivative of forward mode on CPUs.

  Args:
    function: pure; all that it computes follows from its first argument.
    *arrays: float arrays, the first neither empty nor None.

  Returns:
    function(*arrays).
  """
  if jax.default_backend() != 'cpu':
    return function(*arrays)
  return _recomputed(function, distributed.varying_like(arrays, arrays))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recomputed(
  function: Callable[..., Array], arrays: tuple[Any, ...]
) -> Array:
  return function(*arrays)


def _recomputed_forward(
  function: Callable[..., Array], arrays: tuple[Any, ...]
) -> tuple[Array, tuple[Any, ...]]:
  return function(*arrays), arrays


def _recomputed_backward(
  function: Callable[..., Array], arrays: tuple[Any, ...], gradient: Array
) -> tuple[tuple[Any, ...]]:
  first, *others = arrays
  _, transposed = jax.vjp(function, after(first, gradient), *others)
  return (transposed(gradient),)


_recomputed.defvjp(_recomputed_forward, _recomputed_backward)


def _never(x: Array) -> Array:
  """False, which no compiler can know."""
  first = x[(0,) * x.ndim]
  if jnp.issubdtype(x.dtype, jnp.floating):
    return first > jnp.inf
  return first == jnp.iinfo(x.dtype).max
