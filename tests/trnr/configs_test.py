"""Every config resolves to networks, data and optimisers that there are."""

import functools
import inspect
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from common import configuration, distributed, metrics
from trnr import experiment, input_pipeline, models, patches, tasks

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETS = ('rain100l', 'rain100h', 'rain800', 'rainlight', 'rainheavy', 'rain1400')
SAMPLINGS = ('rcs', 'rps', 'rbs1', 'rbs2')
ARGUMENTS = {
  'rain': (*SETS, *SAMPLINGS, 'ddn', 'adn', 'rain100h,rbs1,ddn', 'all,rbs2'),
  'noise': ('grey', 'color', 'grey,dnnet', 'color,dnnet', *SAMPLINGS),
  'own_pairs': ('', 'narrow', *SAMPLINGS, 'narrow,rps'),
  'photos': ('', 'light', 'heavy', 'slanted', 'fine'),
  'rain_small': ('', 'noise'),
}
SMOKE = [
  f'{name}:{",".join([*words, "smoke"])}'
  for name, words in (
    ('rain', ()),
    ('rain', ('rain1400',)),
    ('rain', ('rps', 'ddn')),
    ('rain', ('adn',)),
    ('noise', ()),
    ('noise', ('color', 'dnnet')),
    ('noise', ('rbs2',)),
    ('own_pairs', ()),
    ('photos', ()),
    ('rain_small', ()),
    ('rain_small', ('noise',)),
  )
]
CASES = [f'{k}:{v}' for k, values in ARGUMENTS.items() for v in values] + SMOKE


def load(case, overrides=None):
  name, _, argument = case.partition(':')
  return configuration.load(
    f'{ROOT}/configs/trnr/{name}.py:{argument}', overrides
  )


@functools.cache
def abstract_variables(description):
  network = models.create(**json.loads(description))
  image = jax.ShapeDtypeStruct((1, 64, 64, network.channels), np.float32)
  options = {}
  if network.needs_sigma:
    options['sigma'] = jax.ShapeDtypeStruct((1,), np.float32)
  return jax.eval_shape(network.init, jax.random.key(0), image, **options)


def test_every_file_is_here():
  files = {path.stem for path in (ROOT / 'configs' / 'trnr').glob('*.py')}
  assert files == set(ARGUMENTS)


@pytest.mark.parametrize('case', CASES)
def test_config_resolves(case):
  config = load(case)
  assert config.is_locked
  assert abstract_variables(json.dumps(config.model.to_dict()))['params']
  # Keys are names of arguments.
  inspect.signature(input_pipeline.open_data).bind(**config.data)
  options = config.patches.to_dict()
  del options['path']
  inspect.signature(patches.analyse).bind(None, **options)
  assert config.sampling.name in input_pipeline.SAMPLINGS
  assert config.adaptation.learning_rates in experiment.RATES
  assert set(config.eval.protocols) <= set(metrics.PROTOCOLS)
  assert config.train.parallelism in distributed.PARALLELISMS
  assert config.model.get('noise_map', False) == ('noise' in case)
  if case.partition(':')[0] in ('own_pairs', 'photos', 'rain_small'):
    block = config.sampling
    assert block.batch_size == 2 * block.num_tasks * block.frequencies


def test_wrong_arguments_are_named():
  for name in ARGUMENTS:
    with pytest.raises(ValueError, match="argument 'rain200'"):
      load(f'{name}:rain200')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Two training pairs and a test pair of noise, which is one cluster."""
  root = tmp_path_factory.mktemp('pairs')
  rng = np.random.default_rng(0)
  for split, count in (('train', 2), ('test', 1)):
    for part in ('rain', 'clean'):
      (root / f'{split}_{part}').mkdir()
      for number in range(1, count + 1):
        image = rng.integers(0, 256, (72, 104, 3), np.uint8)
        Image.fromarray(image).save(root / f'{split}_{part}' / f'{number}.png')
  return root


def folders_of(config, root):
  if config.data.name == 'photos':
    return {}
  overrides = {'data.train_target': str(root / 'train_clean')}
  if config.data.name == 'pairs':
    overrides['data.train_input'] = str(root / 'train_rain')
    # The images are numbered as in Rain100L.
    for side in ('input', 'target'):
      overrides[f'data.{side}_pattern'] = r'(.+)\.\w+'
  if not config.data.get('num_held_out', 0):
    overrides['data.test_target'] = str(root / 'test_clean')
    if config.data.name == 'pairs':
      overrides['data.test_input'] = str(root / 'test_rain')
  return overrides


@pytest.mark.parametrize('case', SMOKE)
def test_smoke_config_builds(case, folders, tmp_path):
  config = load(case)
  overrides = folders_of(config, folders)
  if config.data.get('num_held_out', 0):
    overrides['data.num_images'] = 1
  # More clusters than there are, for tasks without replacement.
  overrides['sampling.replace'] = True
  overrides['sampling.batch_size'] = 8  # One for each device of the tests.
  parts = experiment.build(load(case, overrides), tmp_path)
  state = jax.eval_shape(parts.initial_state)
  assert ('inner_learning_rates' in state.model_state) == (
    config.sampling.name == 'rcs'
    and config.adaptation.learning_rates != 'outer'
  )
  batch = next(parts.make_batches(0))
  if config.sampling.name == 'rcs':
    batch = {
      k: x for part in ('support', 'query') for k, x in batch[part].items()
    }
  assert batch['input'].shape == batch['target'].shape
  assert batch['input'].shape[-1] == config.model.get('channels', 3)
  assert ('sigma' in batch) == parts.network.needs_sigma


def test_tasks_are_those_of_the_published_commands():
  expected = {
    'rain100l': (5, 12, 60_000),
    'rain100h': (5, 12, 60_000),
    'rain800': (3, 32, 120_000),
    'rainlight': (3, 32, 120_000),
    'rainheavy': (3, 32, 120_000),
    'rain1400': (3, 32, 280_000),
  }
  for name, numbers in expected.items():
    config = load(f'rain:{name}')
    block = config.sampling
    found = (block.num_tasks, block.frequencies, config.train.num_steps)
    assert found == numbers
    assert config.sampling.batch_size == 32
  config = load('noise:grey')
  assert (config.sampling.num_tasks, config.sampling.frequencies) == (3, 18)
  assert config.optimizer.weight_decay == 0
  assert 'clip_value' not in config.optimizer
  assert load('noise:rbs1').loss.ssim_weight == 0
  assert load('rain:all').data.num_images == 0
  fields = set(config.sampling) - {'name', 'batch_size'}
  assert fields <= set(tasks.TaskSource.__dataclass_fields__)
