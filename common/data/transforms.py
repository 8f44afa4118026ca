"""Random and fixed changes of one image, and the evaluation transform.

A transform takes an example (a dict whose `image` is RGB in 0..255, uint8
[height, width, 3]) and a random generator, and returns the changed example;
other keys pass through. All are frozen dataclasses of plain numbers, so they
can be compared, printed and sent to worker processes.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from common.data.sources import Example

Transform = Callable[[Example, np.random.Generator], Example]

FILTERS = {
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
}


def require_filter(name: str, *, allow_random: bool) -> None:
  """Raises ValueError unless `name` is one of `FILTERS` (or 'random')."""
  valid = [*FILTERS, *(['random'] if allow_random else [])]
  if name not in valid:
    raise ValueError(f'unknown interpolation {name!r}; must be one of {valid}')


def draw_filter(name: str, rng: np.random.Generator) -> Image.Resampling:
  """The filter of that name; 'random' draws one of `FILTERS` evenly."""
  if name == 'random':
    name = list(FILTERS)[rng.integers(len(FILTERS))]
  return FILTERS[name]


def resize(
  image: np.ndarray, height: int, width: int, filter_: Image.Resampling
) -> np.ndarray:
  """Resizes [h, w, 3] to [height, width, 3] as Pillow does (antialiased)."""
  if image.shape[:2] == (height, width):
    return image
  return np.asarray(Image.fromarray(image).resize((width, height), filter_))


@dataclasses.dataclass(frozen=True)
class Chain:
  """Transforms one after the other.

  Attributes:
    transforms: in the order of their application.
  """

  transforms: tuple[Transform, ...]

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Applies all transforms, which share the generator."""
    for transform in self.transforms:
      example = transform(example, rng)
    return example


@dataclasses.dataclass(frozen=True)
class Resize:
  """Resizes to a square without regard to the aspect ratio.

  Attributes:
    size: side of the result in pixels.
    interpolation: 'bilinear', 'bicubic', or 'random' for either at random.
  """

  size: int
  interpolation: str = 'bilinear'

  def __post_init__(self) -> None:
    require_filter(self.interpolation, allow_random=True)

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Resizes the image."""
    filter_ = draw_filter(self.interpolation, rng)
    image = resize(example['image'], self.size, self.size, filter_)
    return {**example, 'image': image}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
  """Cuts out a random rectangle and resizes it to a square.

  The rectangle takes a uniform share of the area and a log-uniform ratio of
  width to height, with sides rounded to whole pixels, at a uniform position.
  After ten draws that do not fit, it is the largest central rectangle of
  permitted ratio.

  Attributes:
    size: side of the result in pixels.
    scale: smallest and largest share of the area, in (0, 1].
    ratio: smallest and largest width / height.
    interpolation: 'bilinear', 'bicubic', or 'random' for either at random.

  Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015,
  section 6.
  """

  size: int
  scale: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  interpolation: str = 'random'

  def __post_init__(self) -> None:
    require_filter(self.interpolation, allow_random=True)
    for name, (low, high) in {'scale': self.scale, 'ratio': self.ratio}.items():
      if not 0 < low <= high:
        raise ValueError(f'{name} = {low, high} must be positive and ascending')

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns [size, size, 3] of a random part of the image."""
    image = example['image']
    top, left, height, width = self.rectangle(
      image.shape[0], image.shape[1], rng
    )
    # Cropped first: Pillow's resize with a box would let the filter see pixels
    # outside the box.
    image = image[top : top + height, left : left + width]
    filter_ = draw_filter(self.interpolation, rng)
    return {**example, 'image': resize(image, self.size, self.size, filter_)}

  def rectangle(
    self, height: int, width: int, rng: np.random.Generator
  ) -> tuple[int, int, int, int]:
    """Draws top, left, height and width for an image [height, width]."""
    log_ratio = np.log(self.ratio)
    for _ in range(10):
      area = rng.uniform(*self.scale) * height * width
      ratio = math.exp(rng.uniform(*log_ratio))
      crop_height = round(math.sqrt(area / ratio))
      crop_width = round(math.sqrt(area * ratio))
      if 0 < crop_height <= height and 0 < crop_width <= width:
        top = int(rng.integers(height - crop_height + 1))
        left = int(rng.integers(width - crop_width + 1))
        return top, left, crop_height, crop_width
    low, high = self.ratio
    crop_height = max(1, min(height, round(width / low)))
    crop_width = max(1, min(width, round(height * high)))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return top, left, crop_height, crop_width


@dataclasses.dataclass(frozen=True)
class PadCrop:
  """Resizes to a square, pads it with black, and cuts out a random square.

  Attributes:
    size: side of the result in pixels; images of this size are not resized.
    padding: pixels added on each side, >= 0.
    interpolation: 'bilinear', 'bicubic', or 'random' for either at random.

  Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
  section 4.2 (with a flip; 32 pixels, padding 4).
  """

  size: int
  padding: int = 4
  interpolation: str = 'bilinear'

  def __post_init__(self) -> None:
    require_filter(self.interpolation, allow_random=True)
    if self.padding < 0:
      raise ValueError(f'padding = {self.padding} must not be negative')

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns [size, size, 3], shifted by up to `padding` pixels."""
    filter_ = draw_filter(self.interpolation, rng)
    image = resize(example['image'], self.size, self.size, filter_)
    # np.pad takes ten times as long as these lines.
    p, side = self.padding, self.size + 2 * self.padding
    padded = np.zeros((side, side, image.shape[-1]), image.dtype)
    padded[p : side - p, p : side - p] = image
    top, left = rng.integers(2 * p + 1, size=2)
    image = padded[top : top + self.size, left : left + self.size]
    return {**example, 'image': image}


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
  """Mirrors left and right.

  Attributes:
    probability: of doing so, in [0, 1].
  """

  probability: float = 0.5

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Flips the image, or not."""
    if rng.random() >= self.probability:
      return example
    image = example['image']
    # Faster than copying a reversed view.
    mirrored = image.take(np.arange(image.shape[1])[::-1], axis=1)
    return {**example, 'image': mirrored}


@dataclasses.dataclass(frozen=True)
class ResizeCentreCrop:
  """The evaluation transform: resize the short side, cut out the centre.

  Not random, so it takes the example alone.

  Attributes:
    size: side of the result in pixels.
    crop: size over length of the resized short side, in (0, 1]; that length is
      floor(size / crop).
    interpolation: 'bilinear' or 'bicubic'.
  """

  size: int
  crop: float = 1.0
  interpolation: str = 'bilinear'

  def __post_init__(self) -> None:
    require_filter(self.interpolation, allow_random=False)
    if not 0 < self.crop <= 1:
      raise ValueError(f'crop = {self.crop} must be in (0, 1]')

  def __call__(self, example: Example) -> Example:
    """Returns [size, size, 3] of the middle of the image."""
    image = example['image']
    height, width = image.shape[:2]
    short, target = min(height, width), math.floor(self.size / self.crop)
    # The long side is truncated, not rounded, as in the published evaluations.
    height, width = target * height // short, target * width // short
    image = resize(image, height, width, FILTERS[self.interpolation])
    top, left = round((height - self.size) / 2), round((width - self.size) / 2)
    image = image[top : top + self.size, left : left + self.size]
    return {**example, 'image': image}
