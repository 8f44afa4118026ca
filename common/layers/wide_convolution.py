"""Convolutions of images that lie beside each other, on few cores of a CPU."""

import functools
import os

import jax
import jax.numpy as jnp

from common.array_types import Array
from common.layers.depthwise_convolution import Padding, Pair

# Products of a row of outputs that keep a thread busy: XLA's CPU backend
# divides a convolution between threads only if there is work for each in every
# row.
_WORK_OF_A_THREAD = 2**18
# Of inputs and outputs of a pixel; narrower layers gain less than copies take.
_LEAST_PRODUCTS = 32 * 32


def images_in_a_row(
  x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int
) -> int:
  """How many images to put beside each other: a divisor of the batch.

  Args:
    x_shape: [b, h, w, c].
    kernel_shape: [kh, kw, c, features].
    stride: of the window, along a row.

  Returns:
    1 where that would be of no use.
  """
  batch, _, width, channels = x_shape
  products = channels * kernel_shape[3]
  work = width // stride * products
  enough = _WORK_OF_A_THREAD * (os.cpu_count() or 1)
  if products < _LEAST_PRODUCTS or work >= enough or not work:
    return 1
  return next(
    (n for n in range(1, batch) if batch % n == 0 and n * work >= enough),
    max(batch, 1),
  )


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def wide_convolution(
  x: Array,
  kernel: Array,
  images: int,
  strides: Pair,
  padding: Padding,
  dilation: Pair,
) -> Array:
  """Convolution of images with zeros around and between them.

  Args:
    x: float [b, h, w, c].
    kernel: float [kh, kw, c, features].
    images: of a row, a divisor of b.
    strides: of the window, in pixels.
    padding: zeros (before, after) for rows and columns.
    dilation: distance between the taps, in pixels.

  Returns:
    Float [b, h', w', features], as `jax.lax.conv_general_dilated` does.
  """

  def row(x: Array) -> Array:
    return _of_a_row(x, kernel, strides, padding, dilation)

  if len(x) == images:
    return row(x)
  # One after the other, in memory that the first has brought into the cache.
  rows = jax.lax.map(row, x.reshape(len(x) // images, images, *x.shape[1:]))
  return rows.reshape(len(x), *rows.shape[2:])


def _of_a_row(
  x: Array, kernel: Array, strides: Pair, padding: Padding, dilation: Pair
) -> Array:
  images, height, width, channels = x.shape
  stride, (left, right) = strides[1], padding[1]
  reach = (kernel.shape[1] - 1) * dilation[1] + 1
  columns = (left + width + right - reach) // stride + 1
  # Windows of one image see no other.
  distance = max(columns * stride, width + max(left, right, 0))
  distance += -distance % stride
  x = jnp.pad(x, ((0, 0), (0, 0), (0, distance - width), (0, 0)))
  x = x.swapaxes(0, 1).reshape(1, height, images * distance, channels)
  x = jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=strides,
    padding=(padding[0], (left, reach - stride - left)),
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  x = x.reshape(x.shape[1], images, distance // stride, kernel.shape[3])
  return x[:, :, :columns].swapaxes(0, 1)
