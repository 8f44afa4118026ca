"""The guided filter, which smooths an image but keeps the edges of another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from common.array_types import Array, require_floating, require_rank


def guided_filter(
  guide: Array,
  source: Array,
  *,
  radius: int,
  epsilon: float,
  subsampling: int = 1,
) -> Array:
  """Fits the source locally as a linear function of the guide.

  Args:
    guide: float [b, h, w, 1] or [b, h, w, 3].
    source: float [b, h, w, c].
    radius: of the square window, which is cut at the border, in pixels.
    epsilon: added to the variances of the guide; the larger, the smoother.
    subsampling: fit at every so many rows and columns only, with a radius that
      is as many times smaller, and enlarge the coefficients.

  Returns:
    Float [b, h, w, c].

  Raises:
    ValueError: a shape or dtype is wrong, or a side is shorter than the window.

  Source: He et al., "Guided Image Filtering", IEEE TPAMI 2013, equations 11 to
  21; He and Sun, "Fast Guided Filter", 2015.
  """
  require_rank(4, guide=guide, source=source)
  require_floating(guide=guide, source=source)
  if guide.shape[:3] != source.shape[:3] or guide.shape[3] not in (1, 3):
    raise ValueError(
      f'guide {list(guide.shape)} must have 1 or 3 channels and the size of '
      f'source {list(source.shape)}'
    )
  full_guide, (batch, height, width, _) = guide, guide.shape
  if subsampling > 1:
    rows, columns = height // subsampling, width // subsampling
    guide = guide[:, ::subsampling, ::subsampling][:, :rows, :columns]
    source = source[:, ::subsampling, ::subsampling][:, :rows, :columns]
    radius //= subsampling
  if min(guide.shape[1:3]) < 2 * radius + 1:
    raise ValueError(
      f'guide {list(full_guide.shape)} must have sides of at least '
      f'{(2 * radius + 1) * subsampling} pixels for this radius'
    )

  count = box_sum(jnp.ones((1, *guide.shape[1:3], 1), guide.dtype), radius)

  def mean(x: Array) -> Array:
    return box_sum(x, radius) / count

  # Covariances do not change with a shift, and lose fewer digits near zero.
  centre = guide.mean((1, 2), keepdims=True)
  guide = guide - centre
  mean_guide, mean_source = mean(guide), mean(source)
  covariance = _outer_mean(guide, source, mean) - _outer(
    mean_guide, mean_source
  )
  variance = _outer_mean(guide, guide, mean) - _outer(mean_guide, mean_guide)
  identity = jnp.eye(guide.shape[3], dtype=guide.dtype)
  slope = jnp.einsum(
    'bhwij,bhwjc->bhwic',
    _inverse(variance + epsilon * identity[None, None, None]),
    covariance,
    precision=jax.lax.Precision.HIGHEST,
  )
  offset = mean_source - _combine(slope, mean_guide)
  flat = slope.reshape(*slope.shape[:3], -1)
  slope, offset = mean(flat), mean(offset)
  if subsampling > 1:
    size = (batch, height, width)
    slope = jax.image.resize(slope, (*size, slope.shape[3]), 'bilinear')
    offset = jax.image.resize(offset, (*size, offset.shape[3]), 'bilinear')
  slope = slope.reshape(batch, height, width, guide.shape[3], source.shape[3])
  return _combine(slope, full_guide - centre) + offset


def box_sum(x: Array, radius: int) -> Array:
  """Sums over squares of side 2 radius + 1, cut at the border.

  Args:
    x: float [b, h, w, c].
    radius: in pixels.

  Returns:
    Float [b, h, w, c].
  """
  side = 2 * radius + 1
  for axis in (1, 2):
    window = [1, 1, 1, 1]
    window[axis] = side
    padding = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
    x = jax.lax.reduce_window(
      x, jnp.zeros((), x.dtype), jax.lax.add, window, (1, 1, 1, 1), padding
    )
  return x


def _outer(a: Array, b: Array) -> Array:
  return a[..., :, None] * b[..., None, :]


def _outer_mean(a: Array, b: Array, mean: Callable[[Array], Array]) -> Array:
  """Local means of all products of a channel of a and one of b."""
  products = _outer(a, b)
  flat = products.reshape(*products.shape[:3], -1)
  return mean(flat).reshape(products.shape)


def _combine(slope: Array, guide: Array) -> Array:
  return jnp.einsum(
    'bhwic,bhwi->bhwc', slope, guide, precision=jax.lax.Precision.HIGHEST
  )


def _inverse(matrix: Array) -> Array:
  """Inverse of symmetric 1x1 or 3x3 matrices [..., n, n], in closed form."""
  if matrix.shape[-1] == 1:
    return 1 / matrix
  first, second, third = (matrix[..., i] for i in range(3))
  rows = jnp.stack(
    [
      jnp.cross(second, third),
      jnp.cross(third, first),
      jnp.cross(first, second),
    ],
    axis=-2,
  )
  determinant = (first * rows[..., 0, :]).sum(-1)
  return rows / determinant[..., None, None]
