"""The gradient of a dense convolution's kernel as matrix products, for CPUs."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from common import distributed
from common.array_types import Array
from common.layers.depthwise_convolution import Padding, Pair
from common.layers.materialized import after

_NARROW = 512  # Columns of a product that two threads do not share well.


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6, 7, 8))
def dense_kernel_gradient(
  gradient: Array,
  x: Array,
  sides: Pair,
  strides: Pair,
  padding: Padding,
  x_dilation: Pair,
  dilation: Pair,
  part: int,
  apart: bool,
) -> Array:
  """Matrix products of shifted images with the shifted gradient.

  XLA's own is a convolution whose window is as large as the image, which is
  far from what the machine can do. Of some images at a time, columns of taps
  are shifts of the image, put beside each other, and rows of taps shifts of the
  gradient: one product makes all taps, of few copies.

  Args:
    gradient: float [b, h', w', features], of what the convolution gave.
    x: float [b, h, w, c], what it took.
    sides: rows and columns of the kernel.
    strides: of the window, in pixels.
    padding: zeros (before, after) for rows and columns.
    x_dilation: distance to which the pixels of x were spread.
    dilation: distance between the taps, in pixels.
    part: images at a time, a divisor of b.
    apart: take a product for each row of taps, and do not shift the gradient.

  Returns:
    Float32 at least, [*sides, c, features].
  """
  batch, height, width, features = gradient.shape
  channels = x.shape[3]
  row_sets = _rows_together(sides[0], dilation[0], strides[0], apart)
  # Two threads share a product of few columns if it is two products.
  narrow = sides[1] * channels <= _NARROW
  halves = 2 if narrow and part * width % 2 == 0 else 1
  pads = [
    (*around, distance - 1)
    for around, distance in zip(padding, x_dilation, strict=True)
  ]
  reached = (width - 1) * strides[1] + 1
  wide = jnp.promote_types(x.dtype, jnp.float32)

  def of_rows(padded: Array, gradients: Array, rows: Sequence[int]) -> Array:
    first = rows[0] * dilation[0]
    shifts = [(row * dilation[0] - first) // strides[0] for row in rows]
    seen = (height + shifts[-1] - 1) * strides[0] + 1
    images = padded[:, first : first + seen : strides[0]]
    columns = [
      images[:, :, left : left + reached : strides[1]]
      for left in range(0, sides[1] * dilation[1], dilation[1])
    ]
    shifted = [
      jnp.pad(gradients, ((0, 0), (shift, shifts[-1] - shift), (0, 0), (0, 0)))
      for shift in shifts
    ]
    return jax.lax.dot_general(
      jnp.concatenate(columns, -1).reshape(halves, -1, sides[1] * channels),
      jnp.concatenate(shifted, -1).reshape(halves, -1, len(rows) * features),
      (((1,), (1,)), ((0,), (0,))),
      preferred_element_type=wide,
    )

  def of_part(images: Array, gradients: Array) -> list[Array]:
    # Not in the forward pass, where the compiler would pad x for all layers.
    zero = after(jnp.ones((), x.dtype), gradients) - 1
    padded = jax.lax.pad(images, zero, [(0, 0, 0), *pads, (0, 0, 0)])
    return [of_rows(padded, gradients, rows) for rows in row_sets]

  def add_part(
    totals: list[Array], arrays: tuple[Array, Array]
  ) -> tuple[list[Array], None]:
    products = of_part(*arrays)
    return [a + b for a, b in zip(totals, products, strict=True)], None

  if part == batch:
    products = of_part(x, gradient)
  else:
    parts = (
      x.reshape(batch // part, part, *x.shape[1:]),
      gradient.reshape(batch // part, part, *gradient.shape[1:]),
    )
    zeros = [
      jnp.zeros((halves, sides[1] * channels, len(rows) * features), wide)
      for rows in row_sets
    ]
    zeros = distributed.varying_like(zeros, parts)
    products, _ = jax.lax.scan(add_part, zeros, parts)
  taps = jnp.concatenate(
    [
      product.sum(0)
      .reshape(sides[1], channels, -1, features)
      .transpose(2, 0, 1, 3)
      for product in products
    ]
  )
  order = [row for rows in row_sets for row in rows]
  return taps if order == sorted(order) else taps[np.argsort(order)]


def _rows_together(
  count: int, dilation: int, stride: int, apart: bool
) -> list[list[int]]:
  """Rows of taps that meet the same rows of an image, or each for itself."""
  if apart:
    return [[row] for row in range(count)]
  sets: dict[int, list[int]] = {}
  for row in range(count):
    sets.setdefault(row * dilation % stride, []).append(row)
  return list(sets.values())
