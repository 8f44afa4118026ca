"""Every config resolves, and builds its networks and optimiser."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import pytest

from coic import experiment, models, schedules, train
from coic.encoder import Encoder
from common import configuration, distributed, metrics
from common.data import derain_sets

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs' / 'coic'
MIXED = [f'{name}{rest}' for name in models.names() for rest in ('', ',smoke')]
MIXED += ['brn,baseline', 'drsformer,mended,smoke', 'idt,mended,smoke']
MIXED += ['brn,spa']
CASES = [f'mixed.py:{arg}' for arg in MIXED]
NAMES = ('photos', 'own_pairs', 'mixed_small')
CASES += [f'{name}.py:smoke' for name in NAMES]
CASES += ['photos.py', 'own_pairs.py:3', 'mixed_small.py', 'encoder_for_brn.py']
CASES += ['encoder_for_brn.py:photos', 'encoder_for_brn.py:smoke']
CASES += [f'mixed_small.py:unseen,drsformer{x}' for x in ('', ',smoke')]


@functools.cache
def shapes(module, size):
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return jax.eval_shape(module.init, jax.random.key(0), image)


@pytest.mark.parametrize('case', CASES)
def test_config_resolves(case):
  config = configuration.load(str(CONFIGS / case))
  assert config.is_locked
  assert config.train.parallelism in distributed.PARALLELISMS
  assert config.loss.name in train.LOSSES
  assert config.contrast.rain_search in distributed.STATISTICS
  assert set(config.eval.protocols) <= metrics.PROTOCOLS.keys()
  assert config.train.batch_norm in distributed.STATISTICS
  assert config.contrast.rain_bank % config.train.batch_size == 0
  known = {*derain_sets.LAYOUTS, 'pairs', 'photos'}
  for block in (config.data.train_sets, config.data.test_sets):
    assert {options.name for options in block.values()} <= known
  schedules.make_schedule(
    **config.optimizer.schedule,
    learning_rate=config.optimizer.learning_rate,
    num_steps=config.train.num_steps,
  )
  model = config.model.to_dict()
  del model['weights']
  model.pop('rain_kernels', None)
  network, encoder = models.create(**model), Encoder(**config.encoder)
  tx = experiment.make_optimizer(config)
  # The networks of published size are traced in models/registry_test.py.
  if 'smoke' in case:
    crop = config.data.crop
    params = {
      'network': shapes(network, crop)['params'],
      'encoder': shapes(encoder, crop)['params'],
    }
    jax.eval_shape(tx.init, params)


def test_every_file_is_tested():
  tested = {case.partition(':')[0] for case in CASES}
  assert tested == {path.name for path in CONFIGS.glob('*.py')}


@pytest.mark.parametrize(
  ('case', 'message'),
  [
    ('mixed.py:bnr', "'bnr' must be one of"),
    ('own_pairs.py:none', "'none' must be a number of sets"),
    ('photos.py:tiny', "'tiny' must be empty or 'smoke'"),
  ],
)
def test_wrong_arguments(case, message):
  with pytest.raises(ValueError, match=message):
    configuration.load(str(CONFIGS / case))
