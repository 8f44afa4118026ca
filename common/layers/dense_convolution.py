"""Convolutions that CPUs differentiate fast, also inside loops."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype

from common import distributed
from common.array_types import Array, require_rank
from common.layers import initializers
from common.layers.dense_kernel_gradient import dense_kernel_gradient
from common.layers.depthwise_convolution import (
  as_padding,
  as_pair,
  grouped_products,
  has_small_groups,
  Padding,
  Pair,
)
from common.layers.materialized import parameters_first

# Of the matrix products that a kernel's gradient is made of on CPUs.
_FEW_CHANNELS, _ROWS_OF_A_PRODUCT = 16, 2**13
# From which Eigen is faster than YNNPACK, on either side of a convolution.
_MANY_CHANNELS = 32


def convolution(
  x: Array,
  kernel: Array,
  *,
  strides: int | Pair = 1,
  padding: int | Sequence[Pair] = 0,
  dilation: int | Pair = 1,
  x_dilation: int | Pair = 1,
  groups: int = 1,
) -> Array:
  """Convolution of images, with zeros around them.

  The same numbers as `jax.lax.conv_general_dilated`, which is what it is on
  accelerators. XLA's CPU backend is fast at convolutions in one layout only,
  and inside a loop it does not change layouts: the derivatives that JAX makes
  are up to 30 times slower there. On CPUs, the derivatives are therefore
  written as a convolution in that layout, and as matrix products. Their own
  derivatives are so too, to any order, in reverse mode; forward mode is not
  available on CPUs.

  Args:
    x: float [b, h, w, c].
    kernel: float [kh, kw, c / groups, features].
    strides: of the window, in pixels.
    padding: zeros on every side, or (before, after) for rows and columns.
    dilation: distance between the taps of the kernel, in pixels.
    x_dilation: spread the pixels of x out with zeros to this distance.
    groups: parts of the channels that keep to themselves. As many as features,
      of few channels each, have a form of their own on CPUs, see
      `grouped_products`; other numbers above one are the plain convolution
      everywhere.

  Returns:
    Float [b, h', w', features].

  Raises:
    ValueError: a shape is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> from common.layers import convolution
    >>> image, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 8))
    >>> convolution(image, kernel, padding=1).shape
    (1, 4, 4, 8)
    >>> convolution(image, kernel, padding=1)[0, :, :, 0].max().item()
    27.0
  """
  require_rank(4, x=x, kernel=kernel)
  if x.shape[3] != kernel.shape[2] * groups:
    raise ValueError(
      f'kernel {list(kernel.shape)} is not for the {x.shape[3]} channels of x '
      f'{list(x.shape)}'
    )
  strides, padding = as_pair(strides), as_padding(padding)
  dilation, x_dilation = as_pair(dilation), as_pair(x_dilation)
  on_cpu = jax.default_backend() == 'cpu'
  if on_cpu and has_small_groups(x, kernel, groups) and x_dilation == (1, 1):
    return grouped_products(
      x, kernel, strides=strides, padding=padding, dilation=dilation
    )
  options = (strides, padding, x_dilation, dilation)
  if not on_cpu or groups > 1:
    return _plain(x, kernel, *options, groups)
  in_place = padding == ((0, 0), (0, 0)) and x_dilation == (1, 1)
  if in_place and kernel.shape[:2] == (1, 1):
    # A matrix product is faster than such a convolution, both ways.
    return x[:, :: strides[0], :: strides[1]] @ kernel[0, 0]
  x, kernel = distributed.varying_like((x, kernel), (x, kernel))
  return _closed(x, kernel, *options)


def _plain(
  x: Array,
  kernel: Array,
  strides: Pair,
  padding: Padding,
  x_dilation: Pair,
  dilation: Pair,
  groups: int,
) -> Array:
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=strides,
    padding=padding,
    lhs_dilation=x_dilation,
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _closed(
  x: Array,
  kernel: Array,
  strides: Pair,
  padding: Padding,
  x_dilation: Pair,
  dilation: Pair,
) -> Array:
  few = min(kernel.shape[2:]) < _MANY_CHANNELS
  if few or strides != (1, 1) or x_dilation != (1, 1):
    return _plain(x, kernel, strides, padding, x_dilation, dilation, 1)
  return taller_convolution(x, kernel, padding, dilation)


@functools.partial(jax.jit, static_argnums=(2, 3))
def taller_convolution(
  x: Array, kernel: Array, padding: Padding, dilation: Pair
) -> Array:
  """Convolution whose result is made taller than x, and cut back.

  XLA's CPU backend has two libraries for convolutions, and gives those that
  make pictures taller to Eigen, not to YNNPACK. Eigen is faster where there are
  many channels. Where XLA decides otherwise, the result is the same.

  Args:
    x: float [b, h, w, c].
    kernel: float [kh, kw, c, features].
    padding: zeros (before, after) for rows and columns.
    dilation: distance between the taps, in pixels.

  Returns:
    Float [b, h', w', features], as `jax.lax.conv_general_dilated` does.
  """
  (top, bottom), columns = padding
  reach = (kernel.shape[0] - 1) * dilation[0] + 1
  height = x.shape[1] + top + bottom - reach + 1
  more = max(x.shape[1] + 1 - height, 0)
  if more > height // 4:
    more = 0  # Too much work for nothing.
  padding = (top, bottom + more), columns
  taller = _plain(x, kernel, (1, 1), padding, (1, 1), dilation, 1)
  return taller[:, :height]


def _forward(
  x: Array, kernel: Array, *options: Any
) -> tuple[Array, tuple[Array, Array]]:
  return _closed(x, kernel, *options), (x, kernel)


def _backward(
  strides: Pair,
  padding: Padding,
  x_dilation: Pair,
  dilation: Pair,
  inputs: tuple[Array, Array],
  gradient: Array,
) -> tuple[Array, Array]:
  x, kernel = inputs
  options = (strides, padding, x_dilation, dilation)
  return (
    _x_gradient(gradient, kernel, x.shape, *options),
    _kernel_gradient(
      x, gradient, (kernel.shape[0], kernel.shape[1]), *options
    ).astype(kernel.dtype),
  )


def _x_gradient(
  gradient: Array,
  kernel: Array,
  shape: tuple[int, ...],
  strides: Pair,
  padding: Padding,
  x_dilation: Pair,
  dilation: Pair,
) -> Array:
  """A convolution again, with strides and dilation of x swapped."""
  spread = []
  for axis in (0, 1):
    length = (shape[axis + 1] - 1) * x_dilation[axis] + 1
    window = (kernel.shape[axis] - 1) * dilation[axis] + 1
    reached = (gradient.shape[axis + 1] - 1) * strides[axis] + 1
    before = padding[axis][0]
    spread.append((window - 1 - before, length + before - reached))
  return _closed(
    gradient,
    kernel[::-1, ::-1].swapaxes(2, 3),
    x_dilation,
    tuple(spread),
    strides,
    dilation,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5, 6))
def _kernel_gradient(
  x: Array,
  gradient: Array,
  sides: Pair,
  strides: Pair,
  padding: Padding,
  x_dilation: Pair,
  dilation: Pair,
) -> Array:
  """Linear in both; [*sides, c, features]."""
  batch, height, width, _ = gradient.shape
  return dense_kernel_gradient(
    gradient,
    x,
    sides,
    strides,
    padding,
    x_dilation,
    dilation,
    _images_at_a_time(batch, height * width),
    # Few channels are cheaper to shift than the gradient: a row at a time.
    x.shape[3] < _FEW_CHANNELS,
  )


def _kernel_gradient_forward(
  x: Array, gradient: Array, *options: Any
) -> tuple[Array, tuple[Array, Array]]:
  return _kernel_gradient(x, gradient, *options), (x, gradient)


def _kernel_gradient_backward(
  sides: Pair,
  strides: Pair,
  padding: Padding,
  x_dilation: Pair,
  dilation: Pair,
  inputs: tuple[Array, Array],
  kernel: Array,
) -> tuple[Array, Array]:
  """Linear in both, so what comes back takes the place of the kernel."""
  del sides
  x, gradient = inputs
  kernel = kernel.astype(x.dtype)
  options = (strides, padding, x_dilation, dilation)
  return (
    _x_gradient(gradient, kernel, x.shape, *options),
    _closed(x, kernel, *options),
  )


def _images_at_a_time(batch: int, pixels: int) -> int:
  """Of divisors of the batch, the smallest that fills a matrix product.

  An even one, so that two threads share it, where the batch is even.
  """
  step = 2 - batch % 2
  return next(
    (
      part
      for part in range(step, batch, step)
      if batch % part == 0 and part * pixels >= _ROWS_OF_A_PRODUCT
    ),
    max(batch, 1),
  )


_closed.defvjp(_forward, _backward)
_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


class Conv(nn.Module):
  """`flax.linen.Conv` for images, on top of `convolution`.

  Attributes:
    features: channels of the output.
    kernel_size: rows and columns of the kernel.
    strides: of the window, in pixels.
    padding: zeros on every side, in pixels.
    kernel_dilation: distance between the taps, in pixels.
    groups: parts of the channels that keep to themselves.
    use_bias: add a bias.
    dtype: of the computation; None keeps that of input and parameters.
    kernel_init: initialiser of the kernel [kh, kw, c / groups, features].
    bias_init: initialiser of the bias [features].
  """

  features: int
  kernel_size: Pair = (3, 3)
  strides: int = 1
  padding: int = 1
  kernel_dilation: int = 1
  groups: int = 1
  use_bias: bool = True
  dtype: jax.typing.DTypeLike | None = None
  kernel_init: nn.initializers.Initializer = initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [b, h, w, c] to [b, h', w', features]."""
    kernel = self.param(
      'kernel',
      self.kernel_init,
      (*self.kernel_size, x.shape[-1] // self.groups, self.features),
    )
    bias = None
    if self.use_bias:
      bias = self.param('bias', self.bias_init, (self.features,))
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    x, kernel, bias = parameters_first(x, kernel, bias)
    x = convolution(
      x,
      kernel,
      strides=self.strides,
      padding=self.padding,
      dilation=self.kernel_dilation,
      groups=self.groups,
    )
    return x if bias is None else x + bias[None, None, None]
