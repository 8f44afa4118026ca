"""Natural photos that are there without a download."""

import importlib.resources

import numpy as np

from common.data import images, pairs
from common.data.sources import Split

# Name: package, folder in it, file. Sizes in `embedded_photos`.
_PHOTOS = {
  'astronaut': ('skimage', 'data', 'astronaut.png'),
  'chelsea': ('skimage', 'data', 'chelsea.png'),
  'china': ('sklearn', 'datasets', 'images', 'china.jpg'),
  'coffee': ('skimage', 'data', 'coffee.png'),
  'flower': ('sklearn', 'datasets', 'images', 'flower.jpg'),
  'motorcycle': ('skimage', 'data', 'motorcycle_left.png'),
  'rocket': ('skimage', 'data', 'rocket.jpg'),
}
_TEST_PHOTOS = ('chelsea', 'china')


def embedded_photos(split: Split | None = None) -> dict[str, np.ndarray]:
  """Seven natural photos that come with scikit-image and scikit-learn.

  Read from the installed packages, without a download. To train: astronaut
  (512 x 512 pixels), coffee (400 x 600), flower (427 x 640), motorcycle (500 x
  741), rocket (427 x 640). To test: chelsea, a cat (300 x 451), and china, a
  temple (427 x 640). The split is ours and fixed.

  Args:
    split: 'train' for five of them, 'test' for two, None for all.

  Returns:
    RGB in 0..255, uint8 [height, width, 3], by name in alphabetical order.

  Raises:
    ValueError: there is no such split.
  """
  if split not in ('train', 'test', None):
    raise ValueError(f"split = {split!r} must be 'train', 'test' or None")
  photos = {}
  for name, (package, *parts) in _PHOTOS.items():
    if split is None or (name in _TEST_PHOTOS) == (split == 'test'):
      file = importlib.resources.files(package).joinpath(*parts)
      photos[name] = images.decode_rgb(file.read_bytes(), name=name)
  return photos


def clean_photos(split: Split | None = None) -> pairs.CleanArrays:
  """The photos of `embedded_photos` as a source of clean images."""
  photos = embedded_photos(split)
  return pairs.CleanArrays(tuple(photos.values()), tuple(photos))
