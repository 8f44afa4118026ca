"""Whole runs and comparisons in this process, on tiny pictures."""

import json
import pathlib

import jax
import numpy as np
import pytest
from matplotlib import image as matplotlib_image
from PIL import Image

from common import checkpoints, configuration, distributed, metric_writers
from common import scores as scores_of
from trnr import compare, evaluate, experiment, main, train

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module', autouse=True)
def two_devices():
  """A mesh of two, for the two tasks of a smoke run."""
  make_mesh = distributed.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      distributed, 'make_mesh', lambda: make_mesh(jax.devices()[:2])
    )
    yield


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Four pairs of ramps, and the same with streaks."""
  root = tmp_path_factory.mktemp('pairs')
  rng = np.random.default_rng(0)
  for part in ('rain', 'clean'):
    (root / part).mkdir()
  for number in range(4):
    ramp = np.linspace(0, 100 + 40 * number, 36 * 36 * 3)
    clean = ramp.reshape(36, 36, 3).astype(np.uint8)
    rainy = clean.copy()
    rainy[:, rng.integers(0, 36, 6)] += 30
    for part, image in (('clean', clean), ('rain', rainy)):
      Image.fromarray(image).save(root / part / f'{number}.png')
  return root


def config_of(folders, name='own_pairs', **overrides):
  paths = {'data.train_target': str(folders / 'clean')}
  if name == 'noise':
    paths['data.test_target'] = str(folders / 'clean')
  else:
    paths['data.train_input'] = str(folders / 'rain')
    # A schedule that does not depend on the length of the run.
    paths['optimizer.schedule.kind'] = 'constant'
  config = configuration.load(
    f'{ROOT}/configs/trnr/{name}.py:smoke',
    {
      **paths,
      'patches.size': 12,
      'patches.stride': 12,
      'patches.threshold': 3.0,
      'sampling.replace': True,
      'model.features': 4,
      'train.num_steps': 4,
      'train.log_every_steps': 1,
      'train.eval_every_steps': 4,
      'train.save_every_steps': 2,
      **{k.replace('__', '.'): v for k, v in overrides.items()},
    },
  )
  with config.unlocked():  # Less to compile.
    config.model.update({'multi_scale': False, 'attention': False})
    config.model.block = 'concatenating'
  return config


@pytest.fixture(scope='module')
def run(folders, tmp_path_factory):
  """A run of four steps, and its scores."""
  folder = tmp_path_factory.mktemp('run')
  return folder, train.train_and_evaluate(config_of(folders), folder)


def test_run_leaves_what_it_says(run, folders):
  folder, scores = run
  names = {path.name for path in folder.iterdir()}
  assert names >= {
    *('config.json', 'patches.npz', 'metrics.jsonl', 'checkpoints'),
    'model.safetensors',
  }
  lines = metric_writers.read_metrics(folder)
  assert [line['step'] for line in lines if 'loss' in line] == [1, 2, 3, 4]
  assert all(line['query_loss'] > 0 for line in lines if 'loss' in line)
  variables, description = checkpoints.load_model(folder / 'model.safetensors')
  assert description['scores'] == scores
  assert set(variables) == {'params', 'batch_stats', 'inner_learning_rates'}


def test_run_leaves_pictures(run):
  folder, _ = run
  files = {
    str(path.relative_to(folder / 'pictures'))
    for path in (folder / 'pictures').rglob('*.png')
  }
  assert files == {
    *('before_after/3_before.png', 'before_after/3_after.png'),
    *(f'{x}/00000004.png' for x in ('restored', 'tasks', 'clusters')),
  }
  before, restored = (
    np.asarray(Image.open(folder / 'pictures' / name))
    for name in ('before_after/3_before.png', 'restored/00000004.png')
  )
  assert before.shape == (36, 36, 3)
  # Enlarged to 72 pixels, in a row with what is made of it and should be.
  assert restored.shape == (72 + 4, 3 * 74 + 2, 3)
  np.testing.assert_array_equal(restored[2:74:2, 2:74:2], before)


def test_dry_run_leaves_a_run_alone(run, folders):
  folder, _ = run
  before = {x: x.stat().st_mtime_ns for x in folder.rglob('*') if x.is_file()}
  text = main.dry_run(config_of(folders), folder)
  assert 'network: ' in text and 'support/input   uint8' in text
  after = {x: x.stat().st_mtime_ns for x in folder.rglob('*') if x.is_file()}
  assert after.keys() - before.keys() == {folder / 'dry_run' / 'batch.png'}
  assert before == {x: after[x] for x in before}


def test_dry_run_keeps_no_patches(folders, tmp_path):
  config = config_of(folders)
  experiment.build(config, tmp_path, keep_patches=False)
  assert not [*tmp_path.iterdir()]


def test_exported_network_scores_as_reported(run, folders):
  folder, scores = run
  network, variables = evaluate.load_network(folder)
  parts = experiment.build(config_of(folders), folder)
  assert parts.test_pairs.names == ('3.png',)
  again = scores_of.means(
    evaluate.evaluate(network, variables, parts.test_pairs)
  )
  for name, value in scores.items():
    np.testing.assert_allclose(again[name], value, rtol=1e-6, err_msg=name)


def test_two_halves_equal_the_whole(run, folders, tmp_path):
  whole, scores = run
  train.train_and_evaluate(config_of(folders, train__num_steps=2), tmp_path)
  assert train.train_and_evaluate(config_of(folders), tmp_path) == scores
  one, other = (
    checkpoints.load_model(folder / 'model.safetensors')[0]
    for folder in (whole, tmp_path)
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)
  # Once more: nothing is left to do, and the scores are remembered.
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  assert train.train_and_evaluate(config_of(folders), tmp_path) == scores
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_noise_of_three_strengths(folders, tmp_path):
  scores = train.train_and_evaluate(
    config_of(folders, 'noise', patches__threshold=0.25), tmp_path
  )
  inputs = [scores[f'sigma{s}_trnr_rgb_input_psnr'] for s in (15, 25, 50)]
  assert inputs == sorted(inputs, reverse=True)
  names = {path.name for path in (tmp_path / 'pictures/before_after').iterdir()}
  assert names >= {f'sigma{s}_0_before.png' for s in (15, 25, 50)}
  network, _ = evaluate.load_network(tmp_path)
  assert network.channels == 1 and network.needs_sigma
  compare.plot(
    config_of(folders, 'noise'), [('', tmp_path)], tmp_path / 'noise.png'
  )
  assert matplotlib_image.imread(tmp_path / 'noise.png').size


def test_comparison(folders, tmp_path):
  config = config_of(folders, train__num_steps=1)
  options = {'samplings': ['rcs', 'rbs1'], 'seeds': [0, 1]}
  rows = compare.compare(config, tmp_path, **options, num_images=[2])
  assert [(r.sampling, r.num_images) for r in rows] == [
    ('rcs', 2),
    ('rbs1', 2),
  ]
  runs = {p.name for p in tmp_path.iterdir() if p.is_dir()}
  assert runs == {
    f'{s}_2_seed{i}' for s in options['samplings'] for i in options['seeds']
  }
  stored = json.loads((tmp_path / 'comparison.json').read_text())
  assert stored[0]['scores'] == rows[0].scores
  table = (tmp_path / 'table.md').read_text()
  assert table == compare.table(rows) + '\n'
  assert '| 2 | RBS-I (crops of distinct images) | 2 |' in table
  picture = matplotlib_image.imread(tmp_path / 'pictures.png')
  assert picture.shape[1] == 300 * 4  # Degraded, two ways, and clean.
  again = compare.compare(config, tmp_path, **options, num_images=[2])
  assert again == rows


def test_table_by_hand():
  scores = {
    'p_psnr': 30.0,
    'p_ssim': 0.9,
    'p_input_psnr': 20.0,
    'p_input_ssim': 0.5,
  }
  row = compare.Row('rcs', 0, [scores, scores | {'p_psnr': 32.0}])
  assert compare.table([row]).splitlines()[2:] == [
    '| | degraded images | | 20.00 | | 0.5000 |',
    '| all | TRNR (tasks from clusters) | 2 | 31.00 | 1.41 | 0.9000 |',
  ]


def test_unknown_sampling(folders, tmp_path):
  with pytest.raises(ValueError, match="sampling 'ris' must be one of"):
    compare.compare(config_of(folders), tmp_path, samplings=['ris'], seeds=[0])
