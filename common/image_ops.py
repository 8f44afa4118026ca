"""Operations on batches of images, on the device."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from common.array_types import (
  Array,
  ArrayLike,
  at_least_float32,
  require_floating,
  require_rank,
)

_BLUR_REACH = 5  # Pixels on each side of the centre.


def as_float(image: Array) -> Array:
  """Brings uint8 images in 0..255 to float32 in [0, 1]; leaves floats."""
  if image.dtype != jnp.uint8:
    return image
  return image.astype(jnp.float32) / 255


def normalize(
  image: Array, *, mean: Sequence[float], std: Sequence[float]
) -> Array:
  """Standardises uint8 images per channel; float images pass as they are.

  Images travel to the device as uint8, a quarter of the bytes. Where the input
  pipeline must work on standardised values (random erasing), it hands over
  float images that are standardised already.

  Args:
    image: uint8 [batch, h, w, channels] in 0..255, or standardised floats.
    mean: per channel, for images in [0, 1].
    std: per channel, for images in [0, 1].

  Returns:
    Float [batch, h, w, channels].
  """
  if image.dtype != jnp.uint8:
    return image
  scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
  shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
  return (
    image.astype(jnp.float32) * scale[None, None, None]
    - shift[None, None, None]
  )


def resize_bilinear(
  image: Array, size: int | tuple[int, int], *, antialias: bool = False
) -> Array:
  """Bilinear interpolation with half-pixel centres.

  `common.data.pair_transforms.resize_bilinear` does the same to a uint8 image
  on the host.

  Args:
    image: float [batch, h, w, channels].
    size: height and width of the result in pixels, or both as one number.
    antialias: widen the filter when shrinking. Without, four pixels make one,
      however large the image is.

  Returns:
    Float32 or better [batch, height, width, channels].

  Raises:
    ValueError: the image has another rank, or is not floating.
  """
  _check(image)
  height, width = (size, size) if isinstance(size, int) else size
  return jax.image.resize(
    at_least_float32(image),
    (len(image), height, width, image.shape[-1]),
    'bilinear',
    antialias=antialias,
    precision=jax.lax.Precision.HIGHEST,
  )


def gaussian_blur(image: Array, sigma: ArrayLike) -> Array:
  """Blurs with a Gaussian of 11 x 11 pixels, reflecting the borders.

  The border pixels themselves are not repeated.

  Args:
    image: float [batch, h, w, channels], h and w at least 6.
    sigma: standard deviation in pixels, > 0; or one for each image, [batch].

  Returns:
    Float32 or better [batch, h, w, channels].

  Raises:
    ValueError: shapes do not fit, or the image is not floating.
  """
  _check(image)
  image = at_least_float32(image)
  sigma = jnp.asarray(sigma, image.dtype)
  if sigma.shape not in ((), image.shape[:1]):
    raise ValueError(
      f'sigma {list(sigma.shape)} must be one number, or one for each image of '
      f'{list(image.shape)}'
    )
  reach = _BLUR_REACH
  if min(image.shape[1:3]) <= reach:
    raise ValueError(
      f'image {list(image.shape)} must be larger than {reach} x {reach} pixels'
    )
  squares = jnp.square(jnp.arange(-reach, reach + 1, dtype=image.dtype))
  variances = jnp.square(jnp.reshape(sigma, (-1, 1)))
  taps = jax.nn.softmax(-squares[None] / (2 * variances))
  beyond = ((0, 0), (reach, reach), (reach, reach), (0, 0))
  return separable_filter(jnp.pad(image, beyond, 'reflect'), taps)


def separable_filter(image: Array, taps: Array) -> Array:
  """Correlates rows and columns with the same taps.

  Args:
    image: float [batch, h + n - 1, w + n - 1, channels], padded already.
    taps: float [n]; or [batch, n], for each image its own.

  Returns:
    Float [batch, h, w, channels].

  Raises:
    ValueError: the image has another rank, or is not floating.
  """
  _check(image)
  for axis in (1, 2):
    size = image.shape[axis] - taps.shape[-1] + 1
    image = functools.reduce(
      jnp.add,
      [
        jax.lax.slice_in_dim(image, i, i + size, axis=axis)
        * jnp.reshape(taps[..., i], (-1, 1, 1, 1))
        for i in range(taps.shape[-1])
      ],
    )
  return image


def _check(image: Array) -> None:
  require_rank(4, image=image)
  require_floating(image=image)
