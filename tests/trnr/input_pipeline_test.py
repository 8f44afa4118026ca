"""Pictures, patches and batches of a config."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from common import configuration
from trnr import input_pipeline, models
from trnr.patch_set import PatchSet

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Five pairs whose degraded image is the clean one plus ten."""
  root = tmp_path_factory.mktemp('pairs')
  rng = np.random.default_rng(0)
  for part in ('rain', 'clean'):
    (root / part).mkdir()
  for number in range(5):
    clean = rng.integers(0, 240, (40, 48, 3), np.uint8)
    for part, image in (('clean', clean), ('rain', clean + np.uint8(10))):
      Image.fromarray(image).save(root / part / f'{number}.png')
  return root


def open_pairs(folders, **options):
  return input_pipeline.open_data(
    'pairs',
    train_input=str(folders / 'rain'),
    train_target=str(folders / 'clean'),
    **options,
  )


def test_held_out_pairs_are_not_learned_from(folders):
  learn, score = open_pairs(folders, num_held_out=2)
  assert learn.names == ('0.png', '1.png', '2.png')
  assert score.names == ('3.png', '4.png')
  learn, score = open_pairs(
    folders, num_held_out=2, num_images=1, num_test_images=1
  )
  assert (learn.names, score.names) == (('0.png',), ('3.png',))


def test_test_folders(folders):
  test = {
    'test_input': str(folders / 'rain'),
    'test_target': str(folders / 'clean'),
  }
  learn, score = open_pairs(folders, num_images=4, **test)
  assert (len(learn), len(score)) == (4, 5)
  with pytest.raises(ValueError, match='num_held_out is for want'):
    open_pairs(folders, num_held_out=2, **test)


def test_clean_and_photos(folders):
  clean = str(folders / 'clean')
  learn, score = input_pipeline.open_data(
    'clean', train_target=clean, test_target=clean, grey=True
  )
  assert set(learn[0]) == {'target'}
  assert score[0]['target'].shape == (40, 48, 1)
  learn, score = input_pipeline.open_data('photos', preset='light')
  assert (len(learn), len(score)) == (5, 2)
  pair = score[0]
  assert (pair['input'] >= pair['target']).all()
  assert (pair['input'] > pair['target']).any()


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('rain', {}, "data set 'rain' must be one of"),
    ('pairs', {}, 'config.data.train_input must name a folder'),
    ('clean', {}, 'config.data.train_target must name a folder'),
    ('photos', {'preset': 'snow'}, "preset 'snow' must be one of"),
    ('photos', {'num_images': 6}, r'num_images = 6 must be in 1\.\.5'),
    (
      'photos',
      {'num_test_images': 3},
      r'num_test_images = 3 must be in 1\.\.2',
    ),
    ('photos', {'num_held_out': 1}, 'num_held_out is for want'),
  ],
)
def test_wrong_data_are_named(name, options, message):
  with pytest.raises(ValueError, match=message):
    input_pipeline.open_data(name, **options)


def test_too_many_held_out(folders):
  with pytest.raises(ValueError, match=r'num_held_out = 5 must be in 1\.\.4'):
    open_pairs(folders, num_held_out=5)
  with pytest.raises(ValueError, match='test_input must name a folder'):
    open_pairs(folders)


def config_of(folders, **overrides):
  return configuration.load(
    f'{ROOT}/configs/trnr/own_pairs.py:smoke',
    {
      'data.train_input': str(folders / 'rain'),
      'data.train_target': str(folders / 'clean'),
      'patches.size': 12,
      'patches.stride': 12,
      'patches.threshold': 100.0,
      **overrides,
    },
  )


def test_patches_are_analysed_once(folders, tmp_path):
  config = config_of(folders)
  path = tmp_path / 'patches.npz'
  made = input_pipeline.load_patches(config, path)
  assert made.clean.shape == (2 * 3 * 4, 12, 12, 3)
  np.testing.assert_array_equal(made.degraded[:, 0], made.clean + np.uint8(10))
  changed = PatchSet(made.clean[:5], made.degraded[:5], made.cluster[:5])
  changed.write(path)
  assert len(input_pipeline.load_patches(config, path)) == 5
  changed.write_folders(tmp_path / 'train')
  assert len(input_pipeline.load_patches(config, tmp_path / 'train')) == 5


@pytest.mark.parametrize('sampling', input_pipeline.SAMPLINGS)
def test_batches_keep_pairs_together_and_resume(folders, tmp_path, sampling):
  config = config_of(folders, **{'sampling.name': sampling})
  patch_set = None
  if sampling in input_pipeline.FROM_PATCHES:
    patch_set = input_pipeline.load_patches(config, tmp_path / 'patches.npz')
  learn, _ = input_pipeline.open_data(**config.data)
  network = models.create(**config.model)

  def batches(start_step):
    return input_pipeline.train_batches(
      config, network, learn, patch_set, start_step
    )

  stream = batches(0)
  steps = [next(stream) for _ in range(3)]
  again = next(batches(2))
  parts = ('support', 'query') if sampling == 'rcs' else (None,)
  count = 0
  for part in parts:
    found, resumed = ((x[part] if part else x) for x in (steps[2], again))
    for key in ('input', 'target'):
      np.testing.assert_array_equal(found[key], resumed[key])
    assert found['target'].shape[-3:] == (12, 12, 3)
    np.testing.assert_array_equal(
      found['input'], found['target'] + np.uint8(10)
    )
    count += found['target'].size // (12 * 12 * 3)
  assert count == 8  # As many patches, whichever way.
