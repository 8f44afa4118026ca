"""Several processes train and score as one does."""

import numpy as np
import pytest

from common.checkpoints import load_model
from common.weight_conversion import flatten
from tests.integration import commands

RUNS = {
  'rsd': [
    'rsdjax.main',
    '--config=configs/rsd/digits.py:smoke',
    '--config.train.num_steps=3',
    '--config.teacher.num_steps=2',
    '--config.model.depth=1',
    '--config.distiller.rsd.statistics=global',
    # A multiple of no number of devices divides the test pictures.
    '--config.eval.batch_size=64',
  ],
  'coic': [
    'coic.main',
    '--config=configs/coic/photos.py:smoke',
    '--config.train.batch_size=8',
    '--config.data.num_images=3',
    '--config.train.batch_norm=global',
    '--config.contrast.rain_search=global',
    '--config.data.num_test_images=3',
  ],
  'trnr': [
    'trnr.main',
    '--config=configs/trnr/photos.py:smoke',
    '--config.sampling.num_tasks=8',
  ],
}


def trained(name, workdir, cache, processes, devices, *options):
  """Exported variables and printed scores of a run."""
  outcomes = commands.run(
    *RUNS[name],
    # Adam would make much of gradients that are zero but for rounding.
    '--config.optimizer.name=sgd',
    '--config.optimizer.learning_rate=0.05',
    f'--workdir={workdir}',
    *options,
    processes=processes,
    devices=devices,
    environment={'JAX_COMPILATION_CACHE_DIR': str(cache)},
  )
  for other in outcomes[1:]:
    assert 'step' not in other.out and 'INFO' not in other.err
  variables, description = load_model(workdir / 'model.safetensors')
  return flatten(variables), description['scores']


def assert_same(actual, expected):
  for name, value in expected[0].items():
    np.testing.assert_allclose(
      actual[0][name], value, rtol=1e-5, atol=1e-5, err_msg=name
    )
  assert actual[1].keys() == expected[1].keys()
  for name, value in expected[1].items():
    np.testing.assert_allclose(actual[1][name], value, rtol=1e-4, err_msg=name)


def test_two_processes_are_as_one(tmp_path):
  one = trained('rsd', tmp_path / 'one', tmp_path, 1, 4)
  two = trained('rsd', tmp_path / 'two', tmp_path, 2, 2)
  assert_same(two, one)


@pytest.mark.slow
@pytest.mark.parametrize('parallelism', ['shard_map', 'pmap'])
@pytest.mark.parametrize('name', RUNS)
def test_four_processes_are_as_one(tmp_path, name, parallelism):
  option = f'--config.train.parallelism={parallelism}'
  one = trained(name, tmp_path / 'one', tmp_path, 1, 8)
  four = trained(name, tmp_path / 'four', tmp_path, 4, 2, option)
  assert_same(four, one)


@pytest.mark.slow
def test_a_sharded_optimiser_of_two_processes(tmp_path):
  one = trained('rsd', tmp_path / 'one', tmp_path, 1, 4)
  option = '--config.train.shard_optimizer'
  two = trained('rsd', tmp_path / 'two', tmp_path, 2, 2, option)
  assert_same(two, one)
