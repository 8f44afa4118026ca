"""A run folder as trainers leave it, for tests of reports."""

import json

import numpy as np
import pytest
from PIL import Image

from common import checkpoints


def save_picture(path, colour=(200, 40, 40), size=(60, 40)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, colour).save(path)


@pytest.fixture(scope='session')
def make_run():
  """Writes a run: `make_run(folder, config={...}, lines=[...])`."""

  def write(folder, *, config=None, lines=None, model=True):
    folder.mkdir(parents=True, exist_ok=True)
    if lines is None:
      lines = [
        {'step': 10, 'loss': 100.0, 'gradient_norm': 2.0},
        {
          'step': 10,
          'heavy_coic_y_psnr': 20.5,
          'heavy_coic_y_ssim': 0.75,
          'heavy_coic_y_input_psnr': 18.25,
          'heavy_coic_y_input_ssim': 0.5,
        },
        {'step': 20, 'loss': 0.5, 'gradient_norm': float('nan')},
        {
          'step': 20,
          'heavy_coic_y_psnr': 24.125,
          'heavy_coic_y_ssim': 0.8125,
          'heavy_coic_y_input_psnr': 18.25,
          'heavy_coic_y_input_ssim': 0.5,
        },
      ]
    (folder / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines)
    )
    config = config or {'seed': 0, 'model': {'name': 'brn', 'features': 4}}
    (folder / 'config.json').write_text(json.dumps(config))
    if model:
      checkpoints.export_model(
        folder / 'model.safetensors',
        {
          'network': {
            'params': {'stem': {'kernel': np.zeros((3, 3, 3, 4))}},
            'batch_stats': {'stem': {'norm': {'mean': np.zeros(4)}}},
          }
        },
        {'model': {'name': 'brn'}},
      )
    return folder

  return write


@pytest.fixture(scope='session')
def add_pictures():
  """Writes pictures of a run: a pair to compare, three steps, a figure."""

  def write(folder):
    pair = folder / 'pictures' / 'before_after'
    save_picture(pair / 'rainy_cat_before.png', (220, 0, 0))
    save_picture(pair / 'rainy_cat_after.png', (0, 0, 220))
    for step in (10, 20, 300):
      path = folder / 'pictures' / 'restored' / f'{step:08d}.png'
      save_picture(path, (0, step % 256, 0))
    save_picture(folder / 'analysis' / 'map.png', size=(1500, 20))

  return write
