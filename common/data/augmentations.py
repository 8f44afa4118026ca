"""RandAugment: a few random operations from a fixed list, on one image."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from common.data.sources import Example
from common.data.transforms import draw_filter


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """Applies random operations of `OPERATIONS` at a random magnitude.

  Each of `num_operations` slots draws an operation evenly, with replacement,
  and applies it with probability `probability`, at a magnitude drawn from
  normal(magnitude, magnitude_std) and clipped to 0..10. What is moved out of
  the image leaves `fill` behind. Geometric operations interpolate bilinearly
  or bicubically, at random.

  Attributes:
    magnitude: mean of the magnitude, in 0..10.
    magnitude_std: its standard deviation.
    increasing: whether enhancements, posterising and solarising grow with the
      magnitude ("inc1"). If not, they follow AutoAugment's original scales,
      where the middle or the end changes nothing.
    num_operations: number of slots.
    probability: of applying an operation that was drawn.
    fill: colour of empty pixels, 0..255 each; usually the mean of the data.

  Source: Cubuk et al., "RandAugment: Practical automated data augmentation
  with a reduced search space", NeurIPS 2020, with the operations and scales of
  timm.
  """

  magnitude: float = 9.0
  magnitude_std: float = 0.5
  increasing: bool = True
  num_operations: int = 2
  probability: float = 0.5
  fill: tuple[int, int, int] = (128, 128, 128)

  def __post_init__(self) -> None:
    if not 0 <= self.magnitude <= 10:
      raise ValueError(f'magnitude = {self.magnitude} must be in 0..10')
    if self.magnitude_std < 0:
      raise ValueError(
        f'magnitude_std = {self.magnitude_std} must not be negative'
      )

  @classmethod
  def parse(cls, text: str, *, fill: tuple[int, int, int]) -> 'RandAugment':
    """Reads timm's notation, such as 'rand-m9-mstd0.5-inc1'.

    Args:
      text: 'rand' followed by any of -m (magnitude), -mstd (its deviation, 0
        if absent), -n (number of operations) and -inc (1: increasing).
      fill: colour of empty pixels.

    Returns:
      The augmentation.

    Raises:
      ValueError: the text is not of this form.
    """
    head, *parts = text.split('-')
    matches = [re.fullmatch(r'(m|mstd|n|inc)(\d+(?:\.\d+)?)', p) for p in parts]
    values = {m[1]: float(m[2]) for m in matches if m}
    if head != 'rand' or len(values) < len(parts):
      raise ValueError(
        f'cannot read randaugment {text!r}; it must look like '
        "'rand-m9-mstd0.5-inc1', from the parts m, mstd, n and inc"
      )
    return cls(
      magnitude=values.get('m', 10.0),
      magnitude_std=values.get('mstd', 0.0),
      increasing=bool(values.get('inc', 0)),
      num_operations=int(values.get('n', 2)),
      fill=fill,
    )

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns the example with its uint8 image [h, w, 3] changed."""
    image = Image.fromarray(example['image'])
    names = list(OPERATIONS)
    for number in rng.integers(len(names), size=self.num_operations):
      if rng.random() < self.probability:
        magnitude = rng.normal(self.magnitude, self.magnitude_std)
        level = Level(
          magnitude=float(np.clip(magnitude, 0, 10)),
          sign=int(rng.choice((-1, 1))),
          increasing=self.increasing,
          fill=self.fill,
          resampling=draw_filter('random', rng),
        )
        image = OPERATIONS[names[number]](image, level)
    return {**example, 'image': np.asarray(image)}


@dataclasses.dataclass(frozen=True)
class Level:
  """How strongly, and in which way, to apply one operation.

  Attributes:
    magnitude: in 0..10.
    sign: -1 or 1, for operations with a direction.
    increasing: see `RandAugment`.
    fill: colour of empty pixels.
    resampling: filter of geometric operations.
  """

  magnitude: float
  sign: int
  increasing: bool
  fill: tuple[int, int, int]
  resampling: Image.Resampling

  @property
  def enhancement(self) -> float:
    """Factor of colour, contrast, brightness and sharpness; 1 is neutral."""
    if self.increasing:
      return max(0.1, 1 + self.sign * 0.09 * self.magnitude)
    return 0.1 + 0.18 * self.magnitude

  @property
  def bits(self) -> int:
    """Bits that posterising keeps."""
    removed_or_kept = int(0.4 * self.magnitude)
    return 4 - removed_or_kept if self.increasing else removed_or_kept

  @property
  def threshold(self) -> int:
    """Lowest value that solarising inverts."""
    level = int(25.6 * self.magnitude)
    return 256 - level if self.increasing else level


def _affine(
  image: Image.Image, level: Level, matrix: tuple[float, ...]
) -> Image.Image:
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    matrix,
    resample=level.resampling,
    fillcolor=level.fill,
  )


def _rotate(image: Image.Image, level: Level) -> Image.Image:
  degrees = level.sign * 3 * level.magnitude
  return image.rotate(degrees, level.resampling, fillcolor=level.fill)


def _shear_x(image: Image.Image, level: Level) -> Image.Image:
  slope = level.sign * 0.03 * level.magnitude
  return _affine(image, level, (1, slope, 0, 0, 1, 0))


def _shear_y(image: Image.Image, level: Level) -> Image.Image:
  slope = level.sign * 0.03 * level.magnitude
  return _affine(image, level, (1, 0, 0, slope, 1, 0))


def _translate_x(image: Image.Image, level: Level) -> Image.Image:
  pixels = level.sign * 0.045 * level.magnitude * image.width
  return _affine(image, level, (1, 0, pixels, 0, 1, 0))


def _translate_y(image: Image.Image, level: Level) -> Image.Image:
  pixels = level.sign * 0.045 * level.magnitude * image.height
  return _affine(image, level, (1, 0, 0, 0, 1, pixels))


def _posterise(image: Image.Image, level: Level) -> Image.Image:
  # ImageOps.posterize refuses to keep 0 bits, which magnitude 10 asks for.
  dropped = 8 - level.bits
  return image.point([v >> dropped << dropped for v in range(256)] * 3)


def _solarise_add(image: Image.Image, level: Level) -> Image.Image:
  added = int(11 * level.magnitude)
  table = [min(255, v + added) if v < 128 else v for v in range(256)]
  return image.point(table * 3)


OPERATIONS: dict[str, Callable[[Image.Image, Level], Image.Image]] = {
  'auto_contrast': lambda image, _: ImageOps.autocontrast(image),
  'equalise': lambda image, _: ImageOps.equalize(image),
  'invert': lambda image, _: ImageOps.invert(image),
  'rotate': _rotate,
  'posterise': _posterise,
  'solarise': lambda image, level: ImageOps.solarize(image, level.threshold),
  'solarise_add': _solarise_add,
  'colour': lambda image, level: ImageEnhance.Color(image).enhance(
    level.enhancement
  ),
  'contrast': lambda image, level: ImageEnhance.Contrast(image).enhance(
    level.enhancement
  ),
  'brightness': lambda image, level: ImageEnhance.Brightness(image).enhance(
    level.enhancement
  ),
  'sharpness': lambda image, level: ImageEnhance.Sharpness(image).enhance(
    level.enhancement
  ),
  'shear_x': _shear_x,
  'shear_y': _shear_y,
  'translate_x': _translate_x,
  'translate_y': _translate_y,
}
