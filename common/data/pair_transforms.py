"""Random changes of a pair, the same for `input` and `target`.

They have the signature of `common.data.transforms.Transform`, and `Chain`
there puts them one after the other. Elements without `input` are served too.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from common.data.sources import Example

_KEYS = ('input', 'target')

# The symmetries of a square; the last four swap height and width.
OPERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'none': lambda image: image,
  'rotate_180': lambda image: image[::-1, ::-1],
  'up_down': lambda image: image[::-1],
  'left_right': lambda image: image[:, ::-1],
  'rotate_90': lambda image: np.rot90(image),
  'rotate_270': lambda image: np.rot90(image, 3),
  'transpose': lambda image: image.swapaxes(0, 1),
  'transpose_anti': lambda image: image[::-1, ::-1].swapaxes(0, 1),
}
FOUR_OPERATIONS = tuple(OPERATIONS)[:4]
EIGHT_OPERATIONS = tuple(OPERATIONS)
# CoIC draws from four, two of which do nothing.
COIC_OPERATIONS = ('none', 'up_down', 'left_right', 'none')


@dataclasses.dataclass(frozen=True)
class PairCrop:
  """Cuts the same random square out of both images.

  Attributes:
    size: side of the square in pixels.
  """

  size: int

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns [size, size, channels] of both, at a uniform position."""
    height, width = example['target'].shape[:2]
    if min(height, width) < self.size:
      raise ValueError(
        f'an image of {height} x {width} pixels is too small for a crop of '
        f'{self.size} x {self.size}'
      )
    top = int(rng.integers(height - self.size + 1))
    left = int(rng.integers(width - self.size + 1))
    return _on_both(
      example, lambda x: x[top : top + self.size, left : left + self.size]
    )


@dataclasses.dataclass(frozen=True)
class PairSymmetry:
  """Applies one of several operations, drawn evenly, to both images.

  Attributes:
    operations: names from `OPERATIONS`; a name may be given twice to draw it
      twice as often. `FOUR_OPERATIONS` keep height and width and are those of
      TRNR; `COIC_OPERATIONS` are those of CoIC.

  Source: specification of TRNR's sampler (four operations), CoIC's data loader.
  """

  operations: tuple[str, ...] = FOUR_OPERATIONS

  def __post_init__(self) -> None:
    unknown = [name for name in self.operations if name not in OPERATIONS]
    if unknown or not self.operations:
      raise ValueError(
        f'operations = {self.operations} must be some of {EIGHT_OPERATIONS}'
      )

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Flips, rotates or keeps both images."""
    name = self.operations[rng.integers(len(self.operations))]
    return _on_both(example, OPERATIONS[name])


@dataclasses.dataclass(frozen=True)
class WithWholeImages:
  """Adds both whole images, resized to a square, before a crop.

  The new keys are `whole_input` and `whole_target`; the example itself stays
  as it is. The aspect ratio is not kept.

  Attributes:
    size: side of the square in pixels.
    antialias: see `resize_bilinear`.

  Source: Ran et al., "Harnessing Joint Rain-/Detail-aware Representations to
  Eliminate Intricate Rains", ICLR 2024 (its data loader).
  """

  size: int
  antialias: bool = False

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Adds uint8 [size, size, channels] for each image; nothing is drawn."""
    del rng
    whole = {
      f'whole_{key}': resize_bilinear(
        example[key], self.size, self.size, antialias=self.antialias
      )
      for key in _KEYS
      if key in example
    }
    return {**example, **whole}


def resize_bilinear(
  image: np.ndarray, height: int, width: int, *, antialias: bool = False
) -> np.ndarray:
  """Bilinear interpolation with half-pixel centres.

  Args:
    image: uint8 [h, w, channels].
    height: of the result, in pixels.
    width: of the result, in pixels.
    antialias: widen the filter when shrinking. Without, four pixels make one,
      however large the image is.

  Returns:
    uint8 [height, width, channels], rounded to nearest, ties to even.
  """
  for axis, size in enumerate((height, width)):
    pixels, weights = _interpolation(image.shape[axis], size, antialias)
    shape = (size, 1, 1) if axis == 0 else (size, 1)
    # A few pixels make one; a product of matrices would be mostly zeros.
    image = sum(
      image.take(pixel, axis) * weight.reshape(shape)
      for pixel, weight in zip(pixels, weights, strict=True)
    )
  return np.rint(image).astype(np.uint8)


def centre_crop(
  image: np.ndarray, size: int, *, multiple: int = 1
) -> np.ndarray:
  """Cuts out the middle of an image; of a smaller one, as much as there is.

  Args:
    image: [h, w, channels].
    size: of the sides of the result, in pixels.
    multiple: what sides of smaller images are cut to multiples of.

  Returns:
    [at most size, at most size, channels].

  Raises:
    ValueError: nothing is left, or a number is not positive.
  """
  if min(size, multiple) < 1:
    raise ValueError(f'size = {size}, multiple = {multiple} must be positive')
  height, width = (
    min(size, side) // multiple * multiple for side in image.shape[:2]
  )
  if not height or not width:
    raise ValueError(
      f'image {list(image.shape)} has no sides that are multiples of {multiple}'
    )
  top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
  return image[top : top + height, left : left + width]


@functools.lru_cache(maxsize=256)
def _interpolation(
  size: int, new_size: int, antialias: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Old pixels of each new one and their weights, both [count, new_size]."""
  scale = size / new_size
  centres = (np.arange(new_size) + 0.5) * scale - 0.5
  if not antialias:
    # Beyond the outermost centres the border pixel goes on.
    centres = centres.clip(0, size - 1)
  reach = max(scale, 1.0) if antialias else 1.0
  distances = np.abs(centres - np.arange(size)[:, None]) / reach
  weights = np.maximum(1.0 - distances, 0.0)
  weights /= weights.sum(axis=0)
  count = (weights > 0).sum(axis=0).max()
  first = (weights > 0).argmax(axis=0).clip(max=size - count)
  pixels = first + np.arange(count)[:, None]
  return pixels, np.take_along_axis(weights, pixels, 0).astype(np.float32)


def add_gaussian_noise(
  image: np.ndarray,
  sigma: float,
  rng: np.random.Generator | np.random.RandomState,
) -> np.ndarray:
  """Adds white Gaussian noise in double precision, without clipping.

  Args:
    image: clean, uint8 [height, width, channels].
    sigma: standard deviation for images in [0, 1], such as 25 / 255.
    rng: `np.random.RandomState(0)`, used for one image after the other, draws
      the noise of the published test programs.

  Returns:
    Noisy image, float32 [height, width, channels]; leaves [0, 1].

  Raises:
    ValueError: sigma is negative, or the image not uint8.

  Source: specification of TRNR's denoising test.
  """
  if image.dtype != np.uint8:
    raise ValueError(f'image is {image.dtype}, but must be uint8')
  if sigma < 0:
    raise ValueError(f'sigma = {sigma} must not be negative')
  noise = sigma * rng.standard_normal(image.shape)
  return (image / 255.0 + noise).astype(np.float32)


def _on_both(
  example: Example, change: Callable[[np.ndarray], np.ndarray]
) -> Example:
  changed = {key: change(example[key]) for key in _KEYS if key in example}
  return {**example, **changed}
