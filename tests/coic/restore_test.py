"""Derained files: tiles against the whole, and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from coic import evaluate, models, restore
from common import checkpoints
from common.initialization import initialize


@pytest.fixture(scope='module')
def derainer():
  options = {'name': 'brn', 'iterations': 1, 'features': 4, 'modulated': False}
  network = models.create(**options, rain_blocks=1, background_blocks=1)
  shape = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  variables = initialize(network, jax.random.key(0), shape)
  return evaluate.Derainer(network, variables)


@pytest.fixture(scope='module')
def image():
  rng = np.random.default_rng(0)
  return rng.random((70, 90, 3), dtype=np.float32)


def test_tiles_are_the_whole_where_they_see_as_much(derainer, image):
  whole = evaluate.restore(derainer, image)
  tiled = restore.make_restore(derainer, tile=48, overlap=32)(image)
  # A margin of 8 pixels is more than this network looks.
  np.testing.assert_allclose(tiled, whole, atol=1e-5)
  small = restore.make_restore(derainer, tile=48, overlap=4)(image)
  assert np.abs(small - whole).max() > 1e-4


@pytest.mark.parametrize(
  'shapes',
  [
    ((70, 90), (1, 500), (300, 70)),
    ((33, 33), (48, 64), (64, 60)),
    ((1, 1), (32, 32), (20, 3)),
  ],
)
def test_few_programs_for_all_sizes(derainer, shapes):
  function = restore.make_restore(derainer, tile=48, overlap=32)
  before = None
  for shape in shapes:
    pixels = np.full((*shape, 3), 0.5, np.float32)
    assert function(pixels).shape == pixels.shape
    count = evaluate._apply._cache_size()
    assert before in (None, count)
    before = count


def test_pictures_smaller_than_the_overlap(derainer):
  pixels = np.full((20, 64, 3), 0.5, np.float32)
  assert restore.make_restore(derainer)(pixels).shape == pixels.shape


def test_tiles_that_a_network_cannot_take():
  network = models.create('drsformer', features=8, blocks=(1, 1, 1, 1))
  with pytest.raises(ValueError, match='must be multiples of'):
    restore.make_restore(evaluate.Derainer(network, {}), tile=50)


def test_command(derainer, image, tmp_path, capsys):
  description = {
    'model': {
      'name': 'brn',
      'iterations': 1,
      'features': 4,
      'modulated': False,
      'rain_blocks': 1,
      'background_blocks': 1,
    }
  }
  checkpoints.export_model(
    tmp_path / 'model.safetensors',
    {'network': derainer.variables['network']},
    description,
  )
  (tmp_path / 'in').mkdir()
  pixels = np.rint(image * 255).astype(np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'in' / 'a.png')
  arguments = [str(tmp_path / 'in'), '--weights', str(tmp_path)]
  arguments += ['--output', str(tmp_path / 'out'), '--tile', '48']
  arguments += ['--overlap', '32']
  restore.main(arguments)
  found = np.asarray(Image.open(tmp_path / 'out' / 'a.png')) / 255
  expected = evaluate.restore(derainer, pixels / np.float32(255))
  np.testing.assert_allclose(found, expected, atol=0.51 / 255)

  (tmp_path / 'in' / 'b.png').write_bytes(b'')
  with pytest.raises(SystemExit) as ended:
    restore.main(arguments)
  assert ended.value.code == 1
  assert 'b.png cannot be read' in capsys.readouterr().err

  with pytest.raises(SystemExit) as ended:
    restore.main([*arguments[:1], '--weights', 'nowhere', *arguments[3:]])
  assert ended.value.code == 1
  assert 'error: weights nowhere are not there' in capsys.readouterr().err
