import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from common import checkpoints
from common.data import pairs
from trnr import evaluate, models

SMALL = {'name': 'msresnet', 'features': 4, 'stages': 1}


@pytest.mark.parametrize(
  'scene', [1, *(pytest.param(i, marks=pytest.mark.slow) for i in range(2, 23))]
)
def test_published_scores(scene, golden, shared, published):
  folder = shared('data/rain100L_test')
  stored = golden('trnr/rain100l_test_metrics.npz')
  paths = [folder / part / f'{scene:03d}.png' for part in ('rain', 'norain')]
  if not paths[0].exists():
    pytest.skip(f'scene {scene} is not on this machine')
  source = pairs.FilePairs((paths[0],), (paths[1],))
  scores = evaluate.evaluate(
    models.create('msresnet'),
    published('rain100l'),
    source,
    protocols=['trnr_rgb', 'trnr_rgb_saved', 'rgb_8bit', 'y_8bit'],
  )
  index = scene - 1
  for score, psnr, ssim in zip(
    scores,
    ('psnr_rgb', 'psnr_rgb_trunc', 'psnr_rgb_round', 'y_psnr_round'),
    ('ssim_rgb', None, None, 'y_ssim_round'),
    strict=True,
  ):
    np.testing.assert_allclose(score.psnr, stored[psnr][index], atol=0.01)
    if ssim:
      np.testing.assert_allclose(score.ssim, stored[ssim][index], atol=1e-4)
  np.testing.assert_allclose(
    scores[0].input_psnr, stored['input_psnr_rgb'][index], atol=0.01
  )


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'model.safetensors'
  network = models.create(**SMALL)
  variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  checkpoints.export_model(path, variables, {'model': SMALL})
  return path


@pytest.fixture
def folders(tmp_path):
  rng = np.random.default_rng(0)
  for part in ('rain', 'norain'):
    (tmp_path / part).mkdir()
    for name, shape in (('a', (16, 20, 3)), ('b', (13, 12, 3))):
      image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
      image.save(tmp_path / part / f'{name}.png')
  return tmp_path


def test_command(weights, folders, capsys):
  output = folders / 'scores.json'
  evaluate.main(
    [
      f'--weights={weights}',
      f'--input={folders / "rain"}',
      f'--target={folders / "norain"}',
      f'--output={output}',
    ]
  )
  printed = capsys.readouterr().out
  assert 'b.png  y_8bit' in printed
  assert f'| model on {folders.name}/norain, 2 images |' in printed
  rows = json.loads(output.read_text())
  assert [row['name'] for row in rows] == ['a.png'] * 2 + ['b.png'] * 2
  mean = np.mean([r['psnr'] for r in rows if r['protocol'] == 'trnr_rgb'])
  assert f'{mean:.3f}' in printed


def test_noise_is_seeded_and_of_the_given_strength(weights, folders):
  network, variables = evaluate.load_network(weights.parent)
  source = pairs.clean_folder(folders / 'norain')
  first, second = (
    evaluate.evaluate(
      network, variables, source, protocols=['trnr_rgb'], sigma=sigma
    )
    for sigma in (5, 10)
  )
  generator = np.random.RandomState(0)
  for i, (a, b) in enumerate(zip(first, second, strict=True)):
    clean = source[i]['target'] / 255.0
    noisy = clean + 5 / 255 * generator.standard_normal(clean.shape)
    error = np.mean((noisy.clip(0, 1) - clean) ** 2)
    np.testing.assert_allclose(a.input_psnr, -10 * np.log10(error), atol=1e-3)
    assert a.input_psnr > b.input_psnr


def test_noise_comes_in_the_string_order_of_the_names():
  clean = np.full((12, 12, 3), 128, np.uint8)
  found = evaluate.pictures(pairs.CleanArrays([clean] * 2, ('9', '10')), 25)
  draws = np.random.RandomState(0).standard_normal((2, 12, 12, 3))
  for (name, noisy, target), expected, draw in zip(
    found, ('10', '9'), draws, strict=True
  ):
    assert name == expected
    np.testing.assert_allclose(noisy[0], target[0] + 25 / 255 * draw, atol=1e-6)


def test_command_with_several_rows(weights, folders, capsys):
  twice = [str(weights)] * 2
  clean = [str(folders / 'norain')] * 2
  shutil.copytree(folders / 'norain', folders / 'same')
  rainy = [str(folders / 'rain'), str(folders / 'same')]
  protocol = ['--protocols', 'y_8bit']
  evaluate.main(
    ['--weights', *twice, '--input', *rainy, '--target', *clean, *protocol]
  )
  assert 'inf / 1.0000' in capsys.readouterr().out
  with pytest.raises(SystemExit):
    evaluate.main(
      ['--weights', *twice, '--input', *rainy, '--target', clean[0]]
    )
  assert 'equally many' in capsys.readouterr().err


def test_errors(weights, folders, capsys):
  network, variables = evaluate.load_network(weights)
  source = pairs.clean_folder(folders / 'norain')
  with pytest.raises(ValueError, match=r"'rgb' must be one of .*'trnr_rgb'"):
    evaluate.evaluate(network, variables, source, protocols=['rgb'])
  with pytest.raises(FileNotFoundError, match='absent'):
    evaluate.load_network(folders / 'absent.npz')
  with pytest.raises(SystemExit):
    evaluate.main([f'--weights={weights}', f'--target={folders}'])
  assert 'either --input or --sigmas' in capsys.readouterr().err
