"""Mixup, CutMix and random erasing: what is done to a whole device batch.

Mixing happens on uint8 images. Random erasing happens after normalisation, so
a batch that goes through it leaves as float32. This gives the rule that train
steps follow: uint8 images still have to be normalised, float images are
normalised.
"""

import dataclasses
import math

import numpy as np

from common.data.sources import Batch


def normalise(
  images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
  """Maps 0..255 to (x / 255 - mean) / std, per channel, in float32."""
  # Whole rows at a time: NumPy is four times slower along an axis of three.
  width = images.shape[2]
  deviation = np.asarray(std, np.float32)
  rows = images.reshape(*images.shape[:2], -1) * np.tile(
    1 / (255 * deviation), width
  )
  rows -= np.tile(np.asarray(mean, np.float32) / deviation, width)
  return rows.reshape(images.shape)


def smooth_labels(
  labels: np.ndarray, num_classes: int, smoothing: float
) -> np.ndarray:
  """Float32 [b, classes]: 1 - smoothing on the label, smoothing spread."""
  target = np.full((len(labels), num_classes), smoothing / num_classes)
  target[np.arange(len(labels)), labels] += 1 - smoothing
  return target.astype(np.float32)


def mixup(images: np.ndarray, share: float) -> np.ndarray:
  """Blends a batch with itself in reverse order.

  Args:
    images: [b, ...]; integer images are rounded to the nearest integer.
    share: of the image itself, in [0, 1]; lambda in the paper.

  Returns:
    share * images + (1 - share) * images[::-1], of the dtype of `images`.

  Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
  """
  blended = images * np.float32(share)
  blended += images[::-1] * np.float32(1 - share)
  if np.issubdtype(images.dtype, np.integer):
    np.rint(blended, out=blended)
  return blended.astype(images.dtype)


def cutmix(
  images: np.ndarray, share: float, centre: tuple[int, int]
) -> tuple[np.ndarray, float]:
  """Pastes a rectangle of each image's partner in the reversed batch.

  Args:
    images: [b, height, width, channels].
    share: of the image itself before the rectangle is clipped, in [0, 1].
    centre: row and column of the middle of the rectangle.

  Returns:
    The images, and the share that the images really keep.

  Source: Yun et al., "CutMix: Regularization Strategy to Train Strong
  Classifiers with Localizable Features", ICCV 2019.
  """
  spans = []
  for middle, size in zip(centre, images.shape[1:3], strict=True):
    half = int(size * math.sqrt(1 - share)) // 2
    spans.append(slice(max(middle - half, 0), min(middle + half, size)))
  rows, columns = spans
  mixed = images.copy()
  mixed[:, rows, columns] = images[::-1, rows, columns]
  height, width = images.shape[1:3]
  pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
  return mixed, 1 - pasted / (height * width)


@dataclasses.dataclass(frozen=True)
class Mix:
  """Mixup or CutMix with one draw for the whole batch.

  Each image is mixed with its counterpart in the reversed batch, and `label`
  turns into a float32 target [b, classes]: the share of the image's own
  smoothed label, the rest of the other's.

  Attributes:
    num_classes: number of classes.
    mixup_alpha: both parameters of mixup's Beta distribution; 0 turns it off.
    cutmix_alpha: the same of CutMix.
    cutmix_probability: of CutMix where both are on.
    label_smoothing: part of each label that is spread over all classes.

  Raises:
    ValueError: both are off, or a number is out of range; when called, if
      the number of images is odd, since the middle one would have no partner.
  """

  num_classes: int
  mixup_alpha: float = 0.8
  cutmix_alpha: float = 1.0
  cutmix_probability: float = 0.5
  label_smoothing: float = 0.1

  def __post_init__(self) -> None:
    alphas = (self.mixup_alpha, self.cutmix_alpha)
    if min(alphas) < 0 or max(alphas) == 0:
      raise ValueError(
        f'mixup_alpha, cutmix_alpha = {alphas} must not be negative, nor both 0'
      )
    for name in ('cutmix_probability', 'label_smoothing'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f'{name} = {getattr(self, name)} must be in [0, 1]')

  def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
    """Mixes uint8 images [b, height, width, 3] with labels [b]."""
    images = batch['image']
    if len(images) % 2:
      raise ValueError(
        f'mixing needs an even number of images on each device, not '
        f'{len(images)}'
      )
    if self.mixup_alpha and self.cutmix_alpha:
      use_cutmix = rng.random() < self.cutmix_probability
    else:
      use_cutmix = self.cutmix_alpha > 0
    alpha = self.cutmix_alpha if use_cutmix else self.mixup_alpha
    share = float(rng.beta(alpha, alpha))
    if use_cutmix:
      height, width = images.shape[1:3]
      centre = int(rng.integers(height)), int(rng.integers(width))
      images, share = cutmix(images, share, centre)
    else:
      images = mixup(images, share)
    target = smooth_labels(
      batch['label'], self.num_classes, self.label_smoothing
    )
    return {**batch, 'image': images, 'label': mixup(target, share)}


@dataclasses.dataclass(frozen=True)
class NormaliseAndErase:
  """Normalises a uint8 batch and fills random rectangles with normal noise.

  Each image is erased with the given probability: a rectangle with a uniform
  share of the area and a log-uniform ratio of height to width, at a uniform
  position; after ten draws that do not fit, the image stays whole.

  Attributes:
    mean: of each channel, in [0, 1].
    std: of each channel.
    probability: that an image is erased.
    area: smallest and largest share of the area.
    ratio: smallest height / width; the largest is its inverse.

  Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020; unit
  normal noise for each pixel and channel.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  probability: float = 0.25
  area: tuple[float, float] = (0.02, 1 / 3)
  ratio: float = 0.3

  def __post_init__(self) -> None:
    if not 0 <= self.probability <= 1:
      raise ValueError(f'probability = {self.probability} must be in [0, 1]')

  def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
    """Makes float32 of uint8 images [b, height, width, 3]."""
    images = normalise(batch['image'], self.mean, self.std)
    for image in images:
      if rng.random() < self.probability:
        self._erase(image, rng)
    return {**batch, 'image': images}

  def _erase(self, image: np.ndarray, rng: np.random.Generator) -> None:
    """Fills a rectangle of a float32 [height, width, channels] in place."""
    height, width, channels = image.shape
    log_ratio = math.log(self.ratio)
    for _ in range(10):
      area = rng.uniform(*self.area) * height * width
      ratio = math.exp(rng.uniform(log_ratio, -log_ratio))
      box_height = round(math.sqrt(area * ratio))
      box_width = round(math.sqrt(area / ratio))
      if box_height < height and box_width < width:
        top = rng.integers(height - box_height + 1)
        left = rng.integers(width - box_width + 1)
        image[top : top + box_height, left : left + box_width] = (
          rng.standard_normal((box_height, box_width, channels), np.float32)
        )
        return


@dataclasses.dataclass(frozen=True)
class MixThenErase:
  """`Mix`, then `NormaliseAndErase`; the order of the published recipes.

  Attributes:
    mix: the first.
    erase: the second.
  """

  mix: Mix
  erase: NormaliseAndErase

  def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
    """Makes float32 images and soft labels of uint8 images and labels."""
    return self.erase(self.mix(batch, rng), rng)
