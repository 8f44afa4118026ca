"""Convolutions with a kernel of its own for each image."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from common import distributed
from common.array_types import Array, require_rank, require_same_batch
from common.layers.dense_convolution import convolution, Padding, Pair
from common.layers.depthwise_convolution import (
  as_padding,
  as_pair,
  grouped_products,
  has_small_groups,
)

Lowering = Literal['unrolled', 'loop', 'vmap']
# Beyond this, compiling takes longer than the loop loses.
_MOST_UNROLLED = 16


def per_sample_convolution(
  x: Array,
  kernels: Array,
  *,
  strides: int | Pair = 1,
  padding: int | Padding = 0,
  dilation: int | Pair = 1,
  groups: int = 1,
  lowering: Lowering | None = None,
) -> Array:
  """Convolves each image with its own kernel.

  Args:
    x: float [b, h, w, c].
    kernels: float [b, kh, kw, c / groups, features].
    strides: of the window, in pixels.
    padding: zeros on every side, or (before, after) for rows and columns.
    dilation: distance between the taps of the kernel, in pixels.
    groups: parts of the channels that keep to themselves.
    lowering: 'vmap' is one grouped convolution, which CPUs are 20 times slower
      at (backward) than at 'unrolled', one convolution for each image. 'loop'
      is these one after the other in a program that does not grow with the
      batch, up to a third slower backward, and holds less. None chooses by
      platform and batch, and takes `grouped_products` for small groups on
      CPUs.

  Returns:
    Float [b, h', w', features].

  Raises:
    ValueError: a shape is wrong.
  """
  require_rank(4, x=x)
  require_rank(5, kernels=kernels)
  require_same_batch(x=x, kernels=kernels)
  if lowering is None and _on_cpu() and has_small_groups(x, kernels, groups):
    return grouped_products(
      x,
      kernels,
      strides=as_pair(strides),
      padding=as_padding(padding),
      dilation=as_pair(dilation),
    )
  return _each(
    functools.partial(
      convolution,
      strides=strides,
      padding=padding,
      dilation=dilation,
      groups=groups,
    ),
    x,
    kernels,
    lowering,
  )


def transposed_convolution(
  x: Array, kernel: Array, *, strides: Pair, padding: Padding
) -> Array:
  """Adjoint of a convolution: every pixel paints its kernel into the output.

  output[y s + a - before] += kernel[a] input[y], in rows and columns.

  Args:
    x: float [b, h, w, c].
    kernel: float [kh, kw, features, c].
    strides: s, between the painted kernels, in pixels.
    padding: rows and columns (before, after) that the output loses.

  Returns:
    Float [b, h', w', features].

  Raises:
    ValueError: a shape is wrong.
  """
  require_rank(4, x=x, kernel=kernel)
  if x.shape[3] != kernel.shape[3]:
    raise ValueError(
      f'kernel {list(kernel.shape)} is not for the {x.shape[3]} channels of x '
      f'{list(x.shape)}'
    )
  sides = [
    (side - 1 - before, side - 1 - after)
    for side, (before, after) in zip(kernel.shape[:2], padding, strict=True)
  ]
  return convolution(
    x,
    kernel[::-1, ::-1].swapaxes(2, 3),
    padding=(sides[0], sides[1]),
    x_dilation=strides,
  )


def per_sample_transposed_convolution(
  x: Array,
  kernels: Array,
  *,
  strides: Pair,
  padding: Padding,
  lowering: Lowering | None = None,
) -> Array:
  """Transposed convolution of each image with its own kernel.

  Args:
    x: float [b, h, w, c].
    kernels: float [b, kh, kw, features, c].
    strides: see `transposed_convolution`.
    padding: see `transposed_convolution`.
    lowering: see `per_sample_convolution`.

  Returns:
    Float [b, h', w', features].

  Raises:
    ValueError: a shape is wrong.
  """
  require_rank(4, x=x)
  require_rank(5, kernels=kernels)
  require_same_batch(x=x, kernels=kernels)
  return _each(
    functools.partial(transposed_convolution, strides=strides, padding=padding),
    x,
    kernels,
    lowering,
  )


def _on_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def _each(
  function: Callable[[Array, Array], Array],
  x: Array,
  kernels: Array,
  lowering: Lowering | None,
) -> Array:
  if lowering is None:
    lowering = 'vmap'
    if _on_cpu():
      lowering = 'unrolled' if len(x) <= _MOST_UNROLLED else 'loop'
  if lowering == 'vmap':
    return jax.vmap(function)(x[:, None], kernels)[:, 0]
  x, kernels = distributed.varying_like((x, kernels), (x, kernels))
  return _in_turn(function, lowering == 'loop', x, kernels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_turn(
  function: Callable[[Array, Array], Array],
  loop: bool,
  x: Array,
  kernels: Array,
) -> Array:
  """One image after the other, with a derivative that goes so too.

  JAX's would keep a copy of each image, and that of `recomputed` adds up arrays
  as large as x, one for each slice of it.
  """
  return _turns(lambda x, kernel: function(x, kernel[0]), x, kernels, loop=loop)


def _in_turn_forward(
  function: Callable[[Array, Array], Array],
  loop: bool,
  x: Array,
  kernels: Array,
) -> tuple[Array, tuple[Array, Array]]:
  return _in_turn(function, loop, x, kernels), (x, kernels)


def _in_turn_backward(
  function: Callable[[Array, Array], Array],
  loop: bool,
  inputs: tuple[Array, Array],
  gradient: Array,
) -> tuple[Array, Array]:
  def of_image(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    _, transposed = jax.vjp(lambda x, k: function(x, k[0]), x, kernel)
    return transposed(gradient)

  return _turns(of_image, *inputs, gradient, loop=loop)


_in_turn.defvjp(_in_turn_forward, _in_turn_backward)


def _turns(function: Callable[..., Any], *arrays: Array, loop: bool) -> Any:
  """The function of one row of all arrays after the other."""
  if loop:
    rows = jax.lax.map(
      lambda rows: function(*rows), [array[:, None] for array in arrays]
    )
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), rows)
  results = [
    function(*(array[i : i + 1] for array in arrays))
    for i in range(len(arrays[0]))
  ]
  return jax.tree.map(lambda *rows: jnp.concatenate(rows), *results)
