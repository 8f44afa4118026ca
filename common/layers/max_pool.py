"""Max pooling whose derivative CPUs take in little time and memory."""

import functools
import itertools
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.array_types import Array, require_rank
from common.layers.materialized import after, materialized


def max_pool(x: Array, *, window: int, strides: int, padding: int) -> Array:
  """Largest value of each square window; the first of equals has the gradient.

  On CPUs, the gradient is taken by remembering where each value came from, and
  there is no derivative of forward mode: XLA's own compares positions in five
  arrays as large as x, and takes twice as long.

  Args:
    x: float array [b, h, w, c].
    window: side of a window, in pixels.
    strides: from one window to the next, in pixels.
    padding: on every side, in pixels, of values that are never the largest.

  Returns:
    Float array [b, h', w', c].

  Raises:
    ValueError: x has other axes.
  """
  require_rank(4, x=x)
  if jax.default_backend() != 'cpu':
    pads = ((padding, padding),) * 2
    return nn.max_pool(x, (window,) * 2, strides=(strides,) * 2, padding=pads)
  return _pool(x, x.shape[1:3], window, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _pool(
  x: Array, sides: tuple[int, int], window: int, strides: int, padding: int
) -> Array:
  return _forward(x, sides, window, strides, padding)[0]


def _forward(
  x: Array, sides: tuple[int, int], window: int, strides: int, padding: int
) -> tuple[Array, Array]:
  """The result, and the number of the tap that each value is of."""
  lowest = jnp.array(-jnp.inf, x.dtype)
  pads = ((0, 0, 0), *((padding, padding, 0),) * 2, (0, 0, 0))
  padded = jax.lax.pad(x, lowest, pads)
  first, *others = (
    padded[:, slice(*rows, strides), slice(*columns, strides)]
    for rows, columns in _spans(sides, window, strides, padding)
  )
  largest, source = first, jnp.zeros(first.shape, jnp.uint8)
  for tap, values in enumerate(others, start=1):
    source = jnp.where(values > largest, jnp.uint8(tap), source)
    largest = jnp.maximum(values, largest)
  # Not when the gradient asks for it: it would take all values again.
  source = materialized(source)
  return after(largest, source), source


def _backward(
  sides: tuple[int, int],
  window: int,
  strides: int,
  padding: int,
  source: Array,
  gradient: Array,
) -> tuple[Array]:
  zero = jnp.zeros((), gradient.dtype)
  total = zero
  for tap, spans in enumerate(_spans(sides, window, strides, padding)):
    found = jnp.where(source == tap, gradient, zero)
    pads = [
      (start - padding, side + padding - stop, strides - 1)
      for side, (start, stop) in zip(sides, spans, strict=True)
    ]
    total += jax.lax.pad(found, zero, [(0, 0, 0), *pads, (0, 0, 0)])
  return (total,)


def _spans(
  sides: tuple[int, int], window: int, strides: int, padding: int
) -> Iterator[tuple[tuple[int, int], ...]]:
  """Rows and columns of each tap in the padded image, from and up to."""
  lengths = [
    (side + 2 * padding - window) // strides * strides + 1 for side in sides
  ]
  for tap in itertools.product(range(window), repeat=2):
    yield tuple(
      (start, start + length)
      for start, length in zip(tap, lengths, strict=True)
    )


_pool.defvjp(_forward, _backward)
