"""Restoring images of all sizes, scores, and what is loaded from where."""

import functools
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from coic import convert, evaluate, models
from coic.encoder import Encoder
from common import checkpoints, weight_conversion
from common.data import pairs
from common.initialization import initialize


class Shifted(models.Backbone):
  """Adds the first number of z, and says what sizes it was given."""

  only_size: int | None = None
  seen: ClassVar[list] = []

  @property
  def side_multiple(self):
    return 8

  @property
  def fixed_size(self):
    return self.only_size

  def __call__(self, image, z=None, *, train=False, all_outputs=False):
    self.seen.append(image.shape[1:3])
    return image if z is None else image + z[:, :1, None, None]


def derainer(**options):
  Shifted.seen.clear()
  return evaluate.Derainer(Shifted(**options), {})


def picture(height, width):
  return np.random.default_rng(0).uniform(0, 1, (height, width, 3)).astype('f4')


def test_small_images_are_padded_and_restored_whole():
  image = picture(19, 35)
  restored = evaluate.restore(derainer(), image)
  np.testing.assert_array_equal(restored, image)
  assert Shifted.seen == [(24, 40)]


@pytest.mark.parametrize(
  ('size', 'options'),
  [((40, 51), {'tile': 16}), ((40, 51), {'tile': 24, 'overlap': 8})],
)
@pytest.mark.parametrize('weights', ['published', 'feathered'])
def test_large_images_are_restored_in_tiles(size, options, weights):
  image = picture(*size)
  restored = evaluate.restore(derainer(), image, weights=weights, **options)
  np.testing.assert_allclose(restored, image, atol=1e-6)
  side = options['tile']
  assert set(Shifted.seen) <= {(side, side)}  # Compiled at most once.


def test_networks_of_one_size_always_work_in_tiles():
  image = picture(20, 40)
  restored = evaluate.restore(derainer(only_size=32), image)
  np.testing.assert_allclose(restored, image, atol=1e-6)
  assert set(Shifted.seen) <= {(32, 32)}


def test_all_tiles_have_the_given_embedding():
  z = np.zeros(128, np.float32)
  z[0] = 0.25
  image = 0.5 * picture(20, 30)
  restored = evaluate.restore(derainer(), image, z=z, tile=16)
  np.testing.assert_allclose(restored, image + 0.25, atol=1e-6)


def test_scores_of_sets_and_their_mean():
  clean = np.full((16, 16, 3), 128, np.uint8)
  sets = {
    name: pairs.ArrayPairs([clean + offset], [clean], ('one',))
    for name, offset in (('a', np.uint8(1)), ('b', np.uint8(10)))
  }
  found = evaluate.scores_by_set(derainer(), sets, protocols=['trnr_rgb'])
  expected = {'a': 20 * np.log10(255), 'b': 20 * np.log10(25.5)}
  for name, psnr in expected.items():
    np.testing.assert_allclose(found[f'{name}_trnr_rgb_psnr'], psnr, rtol=1e-5)
  mean = sum(expected.values()) / 2
  np.testing.assert_allclose(found['mean_trnr_rgb_psnr'], mean, rtol=1e-5)


@functools.cache
def small():
  options = {'iterations': 1, 'features': 2, 'rain_blocks': 1}
  options |= {'background_blocks': 1, 'embedding_features': 4}
  network = models.create('brn', **options)
  encoder = Encoder(features=2, embedding_features=4)
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  variables = {
    name: initialize(module, jax.random.key(0), image)
    for name, module in (('network', network), ('encoder', encoder))
  }
  return {'name': 'brn', **options}, variables


@pytest.mark.slow
def test_exported_derainer_comes_back(tmp_path):
  model, variables = small()
  encoder = {'features': 2, 'embedding_features': 4}
  checkpoints.export_model(
    tmp_path / evaluate.MODEL_FILE,
    variables,
    {'model': model, 'encoder': encoder},
  )
  loaded = evaluate.load_derainer(tmp_path)
  assert loaded.network == models.create(**model)
  assert loaded.encoder == Encoder(**encoder)
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)


def test_published_weights_need_a_name(tmp_path):
  model, variables = small()
  options = {k: v for k, v in model.items() if k != 'name'}
  tensors = convert.to_torch('brn', variables['network'])
  path = tmp_path / 'published.safetensors'
  weight_conversion.write_tensors(path, tensors)
  with pytest.raises(ValueError, match='does not say which network'):
    evaluate.load_derainer(path)
  with pytest.raises(ValueError, match='not those of brn'):
    evaluate.load_derainer(path, name='brn')
  assert options['features'] == 2  # Which published weights never have.
  with pytest.raises(FileNotFoundError, match=r'none\.safetensors'):
    evaluate.load_derainer(tmp_path / 'none.safetensors')


def test_command(tmp_path, capsys):
  model, variables = small()
  checkpoints.export_model(
    tmp_path / 'brn.safetensors', variables['network'], {'model': model}
  )
  for split, value in (('rain', 140), ('norain', 128)):
    folder = tmp_path / 'Rain100L' / 'test' / split
    folder.mkdir(parents=True)
    image = np.full((24, 24, 3), value, np.uint8)
    Image.fromarray(image).save(folder / f'{split}-001.png')
  arguments = ['--weights', str(tmp_path / 'brn.safetensors'), '--set']
  evaluate.main(
    [
      *arguments,
      f'rain100l={tmp_path / "Rain100L"}',
      '--output',
      str(tmp_path / 'scores.json'),
    ]
  )
  assert '| rain100l, 1 images | 27.869' in capsys.readouterr().out
  (first, _) = json.loads((tmp_path / 'scores.json').read_text())
  assert (first['set'], first['protocol']) == ('rain100l', 'coic_y')
  with pytest.raises(SystemExit) as caught:
    evaluate.main([*arguments, f'rain100l={tmp_path / "absent"}'])
  assert caught.value.code == 1
  assert 'rain100l expects images in' in capsys.readouterr().err
