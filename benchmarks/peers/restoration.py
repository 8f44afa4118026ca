"""Restores a folder of pictures, one after the other."""

import pathlib

import numpy as np
import torch
from PIL import Image
from torch import nn


@torch.no_grad()
def restore_folder(
  network: nn.Module, source: pathlib.Path, target: pathlib.Path
) -> None:
  """Writes what a network makes of each picture, under its name.

  Args:
    network: takes images of any size in one piece.
    source: folder of PNG files.
    target: folder, made if need be.
  """
  target.mkdir(exist_ok=True)
  for path in sorted(source.glob('*.png')):
    pixels = np.asarray(Image.open(path).convert('RGB'))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    restored = network(image).clamp(0, 1)[0] * 255
    rounded = restored.round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(rounded).save(target / path.name)
