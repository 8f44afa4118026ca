"""Weights adapted to pairs, scored on the pictures that follow."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from common import checkpoints
from results import adapt_to_pair
from trnr import models

MODEL = {'name': 'msresnet', 'features': 4}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """A folder of weights with inner learning rates, and of three pairs."""
  folder = tmp_path_factory.mktemp('adapt')
  network = models.create(**MODEL)
  image = np.zeros((1, 16, 16, 3), np.float32)
  variables = jax.jit(network.init)(jax.random.key(0), image)
  rates = jax.tree.map(lambda _: np.float32(1e-3), variables['params'])
  checkpoints.export_model(
    folder / 'model.safetensors',
    {**variables, 'inner_learning_rates': rates},
    {'model': MODEL},
  )
  generator = np.random.default_rng(0)
  for side in ('rain', 'clean'):
    (folder / side).mkdir()
    for name in 'abc':
      pixels = generator.integers(256, size=(68, 66, 3), dtype=np.uint8)
      Image.fromarray(pixels).save(folder / side / f'{name}.png')
  return folder


def _run(folder, output, *options):
  arguments = ['--weights', folder, '--input', folder / 'rain']
  arguments += ['--target', folder / 'clean', '--output', output, *options]
  adapt_to_pair.main([str(x) for x in arguments])


@pytest.mark.slow  # Compiles the gradient of a network.
def test_command(weights, tmp_path):
  _run(weights, tmp_path, '--num_pairs', 2, '--num_others', 1)
  found = json.loads((tmp_path / 'analysis.json').read_text())
  assert {*found} == {
    'input', 'published', '2', '20', '2, own statistics', '20, own statistics'
  }  # fmt: skip
  assert np.isfinite([*found.values()]).all()
  # Each number is of other weights.
  assert len({*found.values()}) == len(found)


def test_no_picture_left(weights, tmp_path, capsys):
  with pytest.raises(SystemExit):
    _run(weights, tmp_path, '--num_pairs', 3, '--num_others', 0)
  assert 'num_pairs 3 must be in 1..2' in capsys.readouterr().err
