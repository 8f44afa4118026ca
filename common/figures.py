"""Figures that commands write beside their tables."""

import pathlib
from collections.abc import Mapping

import numpy as np


def middle(image: np.ndarray, side: int) -> np.ndarray:
  """The middle of an image [h, w, c], at most `side` pixels each way."""
  top, left = (max(0, n - side) // 2 for n in image.shape[:2])
  return image[top : top + side, left : left + side]


def save_side_by_side(
  pictures: Mapping[str, np.ndarray], path: str | pathlib.Path
) -> None:
  """Draws pictures in a row, each under its title.

  Args:
    pictures: by title: RGB or grey, [h, w, 3] or [h, w, 1], uint8 in 0..255 or
      float, of which what leaves [0, 1] is cut off.
    path: of the .png.
  """
  from matplotlib import figure  # Half a second of import, only for figures.

  canvas = figure.Figure(figsize=(3 * len(pictures), 3.3), layout='constrained')
  panels = canvas.subplots(1, len(pictures), squeeze=False)[0]
  for axes, (title, picture) in zip(panels, pictures.items(), strict=True):
    shown = picture.clip(0, 1) if picture.dtype.kind == 'f' else picture
    axes.imshow(shown, cmap='gray')
    axes.set_title(title)
    axes.axis('off')
  canvas.savefig(path, dpi=100)
