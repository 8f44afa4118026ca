"""Every network learns a batch by heart, plain and with all of CoIC."""

import itertools
import math

import jax
import pytest

from coic import experiment, models, train
from common import configuration

STEPS = 6


def losses_on_one_batch(case, dtype):
  """The losses of some steps on one and the same batch of a config."""
  config = configuration.load(f'configs/coic/mixed.py:{case},smoke')
  with config.unlocked():
    config.train.dtype = dtype
    config.train.plain_steps = 0 if config.model.modulated else STEPS
    config.train.num_steps = STEPS
    config.optimizer.schedule = {'kind': 'constant'}
    config.optimizer.learning_rate = 1e-3
  parts = experiment.build(config)
  step = jax.jit(
    train.make_train_step(
      parts.network,
      parts.encoder,
      parts.tx,
      loss=config.loss.name,
    )
  )
  state = parts.initial_state()
  batch = next(parts.batches(0))
  found = []
  for _ in range(STEPS):
    state, metrics = step(state, batch)
    found.append(float(metrics['restoration_loss']))
    assert all(math.isfinite(value) for value in metrics.values())
  return found


pytestmark = pytest.mark.slow
CASES = [*itertools.product(models.names(), ('baseline', 'coic'))]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(('name', 'mode'), CASES)
def test_loss_falls(name, mode, dtype):
  found = losses_on_one_batch(f'{name},{mode}', dtype)
  assert found[-1] < found[0]


@pytest.mark.parametrize(('name', 'mode'), CASES)
def test_whole_run(name, mode, tmp_path):
  config = configuration.load(f'configs/coic/mixed.py:{name},{mode},smoke')
  config.train.batch_size = jax.device_count()
  scores = train.train_and_evaluate(config, tmp_path)
  assert all(math.isfinite(value) for value in scores.values())
  assert (tmp_path / 'model.safetensors').is_file()
