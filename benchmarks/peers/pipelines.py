"""Training pictures from PyTorch's loader, with the transforms of our recipes.

Images leave as uint8 [channels, h, w], to be normalised on the device.
"""

import math
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def _to_tensor(image: Image.Image | np.ndarray) -> torch.Tensor:
  pixels = np.array(image)
  return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class RandomResizedCrop:
  """A random rectangle, resized to a square by either of two filters."""

  def __init__(self, size: int):
    self.size = size

  def __call__(self, image: Image.Image) -> Image.Image:
    """Crops and resizes."""
    left, top, width, height = self._rectangle(*image.size)
    part = image.crop((left, top, left + width, top + height))
    return part.resize((self.size, self.size), random.choice(_FILTERS))

  def _rectangle(self, width: int, height: int) -> tuple[int, int, int, int]:
    log_ratio = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
      area = random.uniform(0.08, 1.0) * width * height
      ratio = math.exp(random.uniform(*log_ratio))
      w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
      if 0 < w <= width and 0 < h <= height:
        return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


class PadCrop:
  """A random square of the image with a black border around it."""

  def __init__(self, size: int, padding: int = 4):
    self.size, self.padding = size, padding

  def __call__(self, image: Image.Image) -> Image.Image:
    """Pads and crops."""
    p = self.padding
    padded = Image.new('RGB', (image.width + 2 * p, image.height + 2 * p))
    padded.paste(image, (p, p))
    left, top = random.randint(0, 2 * p), random.randint(0, 2 * p)
    return padded.crop((left, top, left + self.size, top + self.size))


class Labelled(Dataset):
  """Images in memory, cropped and flipped, with their labels."""

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray,
    crop: Callable[[Image.Image], Image.Image],
  ):
    self.images, self.labels, self.crop = images, labels, crop

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> dict[str, Any]:
    image = self.crop(Image.fromarray(self.images[index]))
    if random.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return {'image': _to_tensor(image), 'label': int(self.labels[index])}


class RainyPairs(Dataset):
  """Parts of pairs of files of one name in two folders."""

  def __init__(self, rainy: pathlib.Path, clean: pathlib.Path, size: int):
    self.paths = [
      (path, clean / path.name) for path in sorted(rainy.glob('*.png'))
    ]
    self.size = size

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
    images = [
      np.asarray(Image.open(path).convert('RGB')) for path in self.paths[index]
    ]
    height, width = images[0].shape[:2]
    top = random.randint(0, height - self.size)
    left = random.randint(0, width - self.size)
    window = np.s_[top : top + self.size, left : left + self.size]
    images = [image[window] for image in images]
    # Two of four draws keep the pair as it is.
    operation = random.randrange(4)
    if operation == 1:
      images = [image[::-1] for image in images]
    elif operation == 2:
      images = [image[:, ::-1] for image in images]
    return {
      key: _to_tensor(image)
      for key, image in zip(('input', 'target'), images, strict=True)
    }


def endless(
  dataset: Dataset, *, batch_size: int, num_workers: int
) -> Iterator[dict[str, torch.Tensor]]:
  """Batches of one shuffled epoch after the other.

  Workers are started anew instead of forked, since JAX's threads do not
  survive a fork.
  """
  loader = DataLoader(
    dataset,
    batch_size=batch_size,
    shuffle=True,
    drop_last=True,
    num_workers=num_workers,
    persistent_workers=True,
    multiprocessing_context='spawn',
  )
  while True:
    yield from loader
