"""Synthetic rain: streaks drawn on clean photos, seeded.

A streak is a straight bar, bright in its middle and fading to its ends and
sides. The layer of all streaks is added to the photo.
"""

import dataclasses
import math

import numpy as np

from common.data.pairs import PairSource
from common.data.sources import Example

# Streaks drawn at a time, which bounds the memory of large images.
_CHUNK = 1024

# Degrees from the vertical that a single streak is limited to.
_STEEPEST = 75.0


@dataclasses.dataclass(frozen=True)
class RainPreset:
  """What the rain looks like.

  Attributes:
    length: mean length of a streak in pixels.
    angle: mean direction in degrees from the vertical, in [-60, 60]; positive
      ones lean to the right at the top.
    width: mean width at half brightness in pixels.
    density: streaks for 1,000 pixels of the image.
    brightness: mean of what a streak adds in its middle, in [0, 1].
    spread: largest relative deviation of length, width and brightness from
      their means, in [0, 1); uniform for each streak.
    angle_spread: standard deviation of the direction in degrees.

  Raises:
    ValueError: a number is out of range.
  """

  length: float
  angle: float
  width: float
  density: float
  brightness: float
  spread: float = 0.4
  angle_spread: float = 2.0

  def __post_init__(self) -> None:
    for name in ('length', 'width', 'brightness'):
      if not getattr(self, name) > 0:
        raise ValueError(f'{name} = {getattr(self, name)} must be positive')
    for name in ('density', 'angle_spread'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name} = {getattr(self, name)} must not be negative')
    if abs(self.angle) > 60:
      raise ValueError(f'angle = {self.angle} must be in [-60, 60]')
    if not 0 <= self.spread < 1:
      raise ValueError(f'spread = {self.spread} must be in [0, 1)')


PRESETS = {
  'light': RainPreset(
    length=24, angle=4, width=1.2, density=1.2, brightness=0.4
  ),
  'heavy': RainPreset(
    length=36, angle=-8, width=1.8, density=3.0, brightness=0.5
  ),
  'slanted': RainPreset(
    length=30, angle=32, width=1.4, density=1.6, brightness=0.45
  ),
  'fine': RainPreset(
    length=12, angle=-16, width=1.0, density=6.0, brightness=0.3
  ),
}


def rain_layer(
  shape: tuple[int, int], preset: RainPreset, rng: np.random.Generator
) -> np.ndarray:
  """Draws rain alone.

  Args:
    shape: height and width in pixels.
    preset: look of the rain.
    rng: the same state gives the same layer.

  Returns:
    What the rain adds to an image in [0, 1], float32 [height, width] in
    [0, 1].
  """
  height, width = shape
  # Streaks that reach into the image have their centre within this margin, and
  # their far ends within one as wide again.
  reach = (preset.length / 2 + 4 * preset.width) * (1 + preset.spread)
  margin = math.ceil(reach) + 8
  area = (height + 2 * margin) * (width + 2 * margin)
  count = rng.poisson(preset.density * area / 1000)
  canvas_shape = height + 4 * margin, width + 4 * margin
  canvas = np.zeros(math.prod(canvas_shape))
  for start in range(0, count, _CHUNK):
    n = min(_CHUNK, count - start)
    centres = np.stack(
      [
        rng.uniform(margin, margin * 3 + side, size=(n, 1, 1))
        for side in (height, width)
      ]
    )
    canvas += _streaks(centres, canvas_shape, preset, rng)
  canvas = canvas.reshape(canvas_shape)
  layer = canvas[2 * margin : -2 * margin, 2 * margin : -2 * margin]
  return layer.clip(0, 1).astype(np.float32)


def render_rain(
  image: np.ndarray, preset: RainPreset, rng: np.random.Generator
) -> np.ndarray:
  """Adds rain to a photo: clip(image + 255 layer), rounded.

  Args:
    image: clean, uint8 [height, width, channels].
    preset: look of the rain, one of `PRESETS` or your own.
    rng: the same state gives the same rain.

  Returns:
    Rainy image, uint8 [height, width, channels]; nowhere darker than before.

  Raises:
    ValueError: the image is not uint8 [height, width, channels].
  """
  if image.dtype != np.uint8 or image.ndim != 3:
    raise ValueError(
      f'image is {image.dtype}{list(image.shape)}, but must be uint8 [height, '
      'width, channels]'
    )
  height, width, _ = image.shape
  layer = rain_layer((height, width), preset, rng)
  added = np.rint(255 * layer).astype(np.uint8)[..., None]
  # clip(image + added) without leaving 8 bits.
  return np.minimum(image, 255 - added) + added


@dataclasses.dataclass(frozen=True, eq=False)
class WithRain:
  """Pairs from clean images: rain is rendered when an element is asked for.

  Elements 0..variants-1 show the first clean image, and so on. An element is
  always the same picture, however many variants there are.

  Attributes:
    source: of clean images: only `target` is read.
    preset: look of the rain.
    seed: of the rain, >= 0.
    variants: rainy versions of each clean image.

  Raises:
    ValueError: there are no variants.
  """

  source: PairSource
  preset: RainPreset
  seed: int
  variants: int = 1

  def __post_init__(self) -> None:
    if self.variants < 1:
      raise ValueError(f'variants = {self.variants} must be positive')

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the clean images, with the variant if there are several."""
    if self.variants == 1:
      return self.source.names
    return tuple(
      f'{name} (rain {variant + 1})'
      for name in self.source.names
      for variant in range(self.variants)
    )

  def __len__(self) -> int:
    return len(self.source) * self.variants

  def __getitem__(self, index: int) -> Example:
    clean_index, variant = divmod(int(index), self.variants)
    clean = self.source[clean_index]['target']
    rng = np.random.default_rng((self.seed, clean_index, variant))
    return {'input': render_rain(clean, self.preset, rng), 'target': clean}


def _streaks(
  centres: np.ndarray,
  canvas_shape: tuple[int, int],
  preset: RainPreset,
  rng: np.random.Generator,
) -> np.ndarray:
  """Draws streaks at centres [2, n, 1, 1] (rows, columns) on a flat canvas.

  Each is evaluated at the pixels of a few columns on both sides of its line,
  row by row.
  """
  n = centres.shape[1]

  def vary(mean: float) -> np.ndarray:
    deviation = rng.uniform(-preset.spread, preset.spread, size=(n, 1, 1))
    return (mean * (1 + deviation)).astype(np.float32)

  length, width = vary(preset.length), vary(preset.width)
  brightness = vary(preset.brightness)
  degrees = rng.normal(preset.angle, preset.angle_spread, size=(n, 1, 1))
  angle = np.deg2rad(np.float32(degrees.clip(-_STEEPEST, _STEEPEST)))
  # A pixel averages over its area, which widens a streak and dims it.
  blurred = np.hypot(width, np.float32(1))
  brightness = brightness * width / blurred
  half_height = math.ceil((length / 2 * np.cos(angle) + blurred).max())
  half_width = math.ceil((1.25 * blurred / np.cos(angle)).max())
  row = np.rint(centres[0]).astype(np.intp)
  row = row + np.arange(-half_height, half_height + 1)[:, None]
  down = np.float32(row - centres[0])
  line = centres[1] - down * np.tan(angle)
  column = np.rint(line).astype(np.intp)
  column = column + np.arange(-half_width, half_width + 1)
  right = np.float32(column - line)
  # Only far beyond the ends of a streak do columns leave the canvas.
  column = column.clip(0, canvas_shape[1] - 1)
  along = (down / np.cos(angle) - right * np.sin(angle)) / (length / 2)
  across = right * np.cos(angle) / blurred
  # Half of the brightness at half a width from the middle.
  profile = np.exp(-math.log(16) * np.square(across))
  fading = np.maximum(1 - np.square(np.square(along)), 0)
  return np.bincount(
    (row * canvas_shape[1] + column).ravel(),
    (brightness * fading * profile).ravel(),
    minlength=math.prod(canvas_shape),
  )
