"""Scores of restored images, and the protocols that give them a meaning.

A score is a name, a protocol and a number: PSNR on colour or on luma, of the
float output or of the saved 8-bit image, differ by more than methods do.
Images are float [batch, h, w, channels] in [0, 1].
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from common.array_types import (
  Array,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_shape,
)

# (k * range)^2 with k = 0.01 and 0.03 and images of range 1.
_LUMINANCE_CONSTANT = 0.01**2
_CONTRAST_CONSTANT = 0.03**2

# Of R, G and B, in thousandths of a level for components in [0, 1].
_LUMA_WEIGHTS = (65481, 128553, 24966)

# Outputs of one small matrix product of the blur.
_BLOCK = 32


@jax.jit
def psnr(prediction: Array, target: Array) -> Array:
  """Peak signal-to-noise ratio over all pixels and channels of each image.

  -10 log10(mean((prediction - target)^2)). Nothing is clipped or rounded.

  Args:
    prediction: image, float [batch, h, w, channels] with peak 1.
    target: clean image of the same shape.

  Returns:
    Decibels [batch], float32 (float64 for float64 inputs); infinity where the
    two are identical.

  Raises:
    ValueError: shapes differ, are not [batch, h, w, channels], or are not
      floating.

  Example:
    >>> import jax.numpy as jnp
    >>> from common.metrics import psnr
    >>> target = jnp.zeros((2, 8, 8, 3))
    >>> [round(float(x), 2) for x in psnr(target + 0.1, target)]
    [20.0, 20.0]
  """
  prediction, target = _checked(prediction, target)
  error = jnp.square(prediction - target).mean(axis=(1, 2, 3))
  return -10.0 * jnp.log10(error)


@functools.partial(jax.jit, static_argnames=('window_size', 'sigma', 'padding'))
def ssim(
  prediction: Array,
  target: Array,
  *,
  window_size: int = 11,
  sigma: float = 1.5,
  padding: Literal['valid', 'same'] = 'valid',
) -> Array:
  """Structural similarity under a Gaussian window: a score and a loss.

  The mean over positions and channels of
  (2 m_p m_t + C1) (2 s_pt + C2) / ((m_p^2 + m_t^2 + C1) (s_p^2 + s_t^2 + C2))
  with windowed means m and biased (co)variances s, C1 = 0.01^2, C2 = 0.03^2.
  Differentiable to any order; 1 with a gradient of 0 for identical images.

  Args:
    prediction: image, float [batch, h, w, channels] of range 1; may leave
      [0, 1].
    target: clean image of the same shape.
    window_size: side of the window in pixels, odd.
    sigma: standard deviation of the Gaussian in pixels.
    padding: 'valid' for windows inside of the image only, or 'same' for one at
      each pixel, with zeros beyond the border.

  Returns:
    Similarity [batch] in [-1, 1], float32 (float64 for float64 inputs).

  Raises:
    ValueError: shapes differ, are not [batch, h, w, channels], or are not
      floating; an option is invalid; no window fits in.

  Example:
    >>> import jax.numpy as jnp
    >>> from common.metrics import ssim
    >>> target = jnp.linspace(0, 1, 256).reshape(1, 16, 16, 1)
    >>> ssim(target, target).tolist()
    [1.0]
    >>> [round(float(x), 2) for x in ssim(1 - target, target)]
    [-0.83]

  Source: Wang et al., "Image Quality Assessment: From Error Visibility to
  Structural Similarity", IEEE TIP 2004, equation 13.
  """
  prediction, target = _checked(prediction, target)
  if window_size < 1 or window_size % 2 == 0:
    raise ValueError(f'window_size = {window_size} must be odd and positive')
  if not sigma > 0:
    raise ValueError(f'sigma = {sigma} must be positive')
  if padding not in ('valid', 'same'):
    raise ValueError(f"padding = {padding!r} must be 'valid' or 'same'")
  if padding == 'valid' and min(prediction.shape[1:3]) < window_size:
    raise ValueError(
      f'prediction and target of shape {list(prediction.shape)} are smaller '
      f'than the window of {window_size} x {window_size} pixels'
    )
  blur = functools.partial(
    _blur, window=_gaussian(window_size, sigma), padding=padding
  )
  # Covariances are small differences of large numbers. So the numerators come
  # from the error image, by 2ab = a^2 + b^2 - (a - b)^2: what is lost to
  # rounding in float32 then shrinks with the error. And where windows have
  # weight 1, subtracting 0.5 leaves variances as they are.
  shift = 0.5 if padding == 'valid' else 0.0
  error = jnp.moveaxis(prediction - target, -1, 1)
  target = jnp.moveaxis(target, -1, 1) - shift
  prediction = target + error
  mean_error, mean_target = blur(error), blur(target)
  mean_prediction = mean_target + mean_error
  error_variance = blur(jnp.square(error)) - jnp.square(mean_error)
  variances = (
    blur(jnp.square(prediction) + jnp.square(target))
    - jnp.square(mean_prediction)
    - jnp.square(mean_target)
  )
  squared_means = jnp.square(mean_prediction + shift) + jnp.square(
    mean_target + shift
  )
  luminance = 1.0 - jnp.square(mean_error) / (
    squared_means + _LUMINANCE_CONSTANT
  )
  structure = 1.0 - error_variance / (variances + _CONTRAST_CONSTANT)
  return (luminance * structure).mean(axis=(1, 2, 3))


@functools.partial(jax.jit, static_argnames=('rounded',))
def rgb_to_y(image: Array, *, rounded: bool = False) -> Array:
  """Luma of BT.601 in its studio range, as MATLAB's `rgb2ycbcr` gives it.

  Y = 16 + (65.481 R + 128.553 G + 24.966 B) with R, G, B in [0, 1], in units
  of 1/255: black is 16/255 and white 235/255.

  Args:
    image: RGB in [0, 1], float [batch, h, w, 3].
    rounded: treat the image as 8-bit numbers, and round luma to such, halves
      up: equal to MATLAB on uint8 images.

  Returns:
    Luma in [16/255, 235/255], float [batch, h, w, 1].

  Raises:
    ValueError: the image is not floating or not [batch, h, w, 3].

  Source: ITU-R BT.601-7, section 2.5.
  """
  image = jnp.asarray(image)
  require_floating(image=image)
  require_rank(4, image=image)
  image = at_least_float32(image)
  if rounded:
    return _rounded_luma(jnp.floor(image * 255.0 + 0.5)) / 255.0
  return _luma(image, peak=1.0)


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How a restored image is prepared and scored.

  In this order: clip, 8 bits, luma, crop; PSNR; pooling; SSIM.

  Attributes:
    colour: 'rgb' scores all channels as they are (grey images too), 'y' the
      luma of RGB images.
    clip: limit the prediction to [0, 1].
    quantise: bring both images to 8 bits: 'none', 'round', or 'truncate' the
      prediction for parity with programs that save images so.
    round_luma: round luma to 8 bits, as MATLAB does for uint8 images.
    border: pixels cut off on each side, >= 0.
    window_size: side of the Gaussian window of SSIM in pixels.
    sigma: its standard deviation in pixels.
    pooling: for SSIM, average blocks of max(1, round(shorter side / 256))
      pixels first (`round` takes halves to even).

  Raises:
    ValueError: a field has an invalid value, or luma is to be rounded of
      something that is not luma of 8-bit images.
  """

  colour: Literal['rgb', 'y'] = 'rgb'
  clip: bool = True
  quantise: Literal['none', 'round', 'truncate'] = 'none'
  round_luma: bool = False
  border: int = 0
  window_size: int = 11
  sigma: float = 1.5
  pooling: bool = False

  def __post_init__(self) -> None:
    for name, valid in {
      'colour': ('rgb', 'y'),
      'quantise': ('none', 'round', 'truncate'),
    }.items():
      if getattr(self, name) not in valid:
        raise ValueError(
          f'{name} = {getattr(self, name)!r} must be one of {valid}'
        )
    if self.border < 0:
      raise ValueError(f'border = {self.border} must not be negative')
    if self.round_luma and (self.colour != 'y' or self.quantise == 'none'):
      raise ValueError(
        "round_luma needs colour = 'y' and quantise = 'round' or 'truncate'"
      )


# `score` names them in reports.
PROTOCOLS: dict[str, Protocol] = {
  # TRNR's published figures (its test program): float output, all channels.
  'trnr_rgb': Protocol(),
  # The same of the images that its test program saves, 0.05 to 0.07 dB lower.
  'trnr_rgb_saved': Protocol(quantise='truncate'),
  # The same of images that are saved as they should be.
  'rgb_8bit': Protocol(quantise='round'),
  # Luma of 8-bit files, itself not rounded, as Python programs compute it.
  'y_8bit': Protocol(colour='y', quantise='round'),
  # The MATLAB programs of the deraining field, on 8-bit files: luma of 8 bits.
  'matlab_y': Protocol(colour='y', quantise='round', round_luma=True),
  # CoIC's published figures: luma of the float output, pooled SSIM.
  'coic_y': Protocol(colour='y', pooling=True),
}


@functools.partial(jax.jit, static_argnames=('protocol',))
def score(
  prediction: Array, target: Array, protocol: Protocol
) -> dict[str, Array]:
  """PSNR and SSIM under a protocol.

  Args:
    prediction: restored image, float [batch, h, w, channels]; values outside
      of [0, 1] are limited if the protocol says so.
    target: clean image of the same shape, in [0, 1].
    protocol: one of `PROTOCOLS`, or one of your own.

  Returns:
    `psnr` in decibels and `ssim`, both [batch].

  Raises:
    ValueError: shapes differ, are not [batch, h, w, channels], are not RGB
      where luma is asked for, are too small for the window, or are not
      floating.

  Source: TRNR's and CoIC's published test programs, and the MATLAB programs
  of deraining benchmarks.
  """
  prediction, target = _checked(prediction, target)
  if protocol.clip:
    prediction = prediction.clip(0.0, 1.0)
  peak = 1.0
  if protocol.quantise != 'none':
    # Left as levels: the compiler fuses divisions with the subtraction, and
    # then equal images differ by a last bit.
    peak = 255.0
    half = 0.5 if protocol.quantise == 'round' else 0.0
    prediction = jnp.floor(prediction * peak + half)
    target = jnp.floor(target * peak + 0.5)
  pair = [prediction, target]
  if protocol.round_luma:
    pair = [_rounded_luma(x) for x in pair]
  elif protocol.colour == 'y':
    pair = [_luma(x, peak=peak) for x in pair]
  if border := protocol.border:
    pair = [x[:, border:-border, border:-border] for x in pair]
  decibels = psnr(*pair) + 20.0 * math.log10(peak)
  if protocol.pooling:
    factor = max(1, round(min(pair[0].shape[1:3]) / 256))
    pair = [_average_pool(x, factor) for x in pair]
  similarity = ssim(
    *(x / peak for x in pair),
    window_size=protocol.window_size,
    sigma=protocol.sigma,
  )
  return {'psnr': decibels, 'ssim': similarity}


def _checked(prediction: Array, target: Array) -> tuple[Array, Array]:
  """Checks both images and makes them float32 at least."""
  prediction, target = jnp.asarray(prediction), jnp.asarray(target)
  require_floating(prediction=prediction, target=target)
  require_rank(4, prediction=prediction, target=target)
  require_same_shape(prediction=prediction, target=target)
  return at_least_float32(prediction), at_least_float32(target)


def _luma(image: Array, *, peak: float) -> Array:
  """Luma of RGB images, both with this peak."""
  _require_rgb(image)
  weights = jnp.asarray(_LUMA_WEIGHTS, image.dtype) / 255000.0
  luma = (image * weights[None, None, None]).sum(axis=-1, keepdims=True)
  return luma + 16.0 * peak / 255.0


def _rounded_luma(levels: Array) -> Array:
  """Luma in whole levels of RGB images in levels 0..255, halves up."""
  _require_rgb(levels)
  # Thousandths in integers, since float32 cannot tell on which side of a half
  # some colours are.
  weights = jnp.asarray(_LUMA_WEIGHTS, jnp.int32)[None, None, None]
  thousandths = (levels.astype(jnp.int32) * weights).sum(axis=-1, keepdims=True)
  return (16 + (thousandths + 127500) // 255000).astype(levels.dtype)


def _require_rgb(image: Array) -> None:
  if image.shape[-1] != 3:
    raise ValueError(f'image {list(image.shape)} must be RGB, [batch, h, w, 3]')


def _average_pool(image: Array, factor: int) -> Array:
  """Means of factor x factor pixels; the remainder is dropped."""
  batch, height, width, channels = image.shape
  height, width = height // factor, width // factor
  image = image[:, : height * factor, : width * factor]
  blocks = image.reshape(batch, height, factor, width, factor, channels)
  return blocks.mean(axis=(2, 4))


def _gaussian(size: int, sigma: float) -> np.ndarray:
  """Samples [size] of a Gaussian, of sum 1."""
  offsets = np.arange(size) - size // 2
  weights = np.exp(-(offsets**2) / (2 * sigma**2))
  return weights / weights.sum()


def _blur(x: Array, *, window: np.ndarray, padding: str) -> Array:
  """Filters images [batch, channels, h, w] with the window on both axes."""
  if padding == 'same':
    reach = len(window) // 2
    x = jnp.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
  for _ in range(2):
    x = _blur_rows(x, window).swapaxes(-1, -2)
  return x


def _blur_rows(x: Array, window: np.ndarray) -> Array:
  """Valid correlation of the last axis with a window.

  As products of blocks of pixels with a small banded matrix. On a CPU, XLA's
  convolutions with one channel are 10 to 20 times slower (measured forward and
  backward, [60, 64, 64, 3] and [1, 321, 481, 3]), sums of shifted images have
  slow derivatives, and one banded matrix of the whole width costs its square.
  """
  overlap = len(window) - 1
  block = max(_BLOCK, overlap)
  num_outputs = x.shape[-1] - overlap
  num_blocks = -(-num_outputs // block)
  # One block more, so that each has a next one to take the overlap from.
  missing = (num_blocks + 1) * block - x.shape[-1]
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
  x = x.reshape(*x.shape[:-1], num_blocks + 1, block)
  x = jnp.concatenate([x[..., :-1, :], x[..., 1:, :overlap]], axis=-1)
  band = np.zeros((block + overlap, block))
  for i in range(block):
    band[i : i + len(window), i] = window
  y = jnp.matmul(x, jnp.asarray(band, x.dtype), precision='highest')
  return y.reshape(*y.shape[:-2], num_blocks * block)[..., :num_outputs]
