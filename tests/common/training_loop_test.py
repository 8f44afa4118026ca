"""The loop on a state that only counts."""

import jax
import jax.numpy as jnp
import optax
import pytest

from common import metric_writers, training_loop
from common.checkpoints import Checkpoints
from common.progress import Chrono
from common.train_state import TrainState


def _run(tmp_path, *, num_steps, broken_at=None, first_step=0):
  tx = optax.sgd(1.0)
  state = TrainState.create(
    params={'count': jnp.float32(first_step)},
    model_state={},
    tx=tx,
    rng=jax.random.key(0),
  )

  @jax.jit
  def step_fn(state, batch):
    state = state.apply_gradients({'count': -jnp.ones(())}, {}, tx)
    count = state.params['count']
    return state, {'loss': jnp.where(batch == broken_at, jnp.nan, count)}

  with Checkpoints(tmp_path, best_metric='score') as checkpoints:
    return training_loop.run(
      state,
      step_fn=step_fn,
      batches=iter(range(first_step + 1, 1000)),
      evaluate=lambda s: {'score': -abs(float(s.params['count']) - 4)},
      chrono=Chrono(num_steps=num_steps, batch_size=1),
      writer=metric_writers.MetricWriter(tmp_path, num_steps=num_steps),
      checkpoints=checkpoints,
      first_step=first_step,
      num_steps=num_steps,
      log_every_steps=2,
      eval_every_steps=4,
      save_every_steps=3,
    )


def test_lines_scores_and_checkpoints(tmp_path):
  state, scores = _run(tmp_path, num_steps=7)
  assert float(state.params['count']) == 7 and scores == {'score': -3.0}
  lines = metric_writers.read_metrics(tmp_path)
  losses = {x['step']: x['loss'] for x in lines if 'loss' in x}
  assert losses == {2: 1.5, 4: 3.5, 6: 5.5, 7: 7.0}
  assert {x['step']: x['score'] for x in lines if 'score' in x} == {4: 0, 7: -3}
  assert 'eta_seconds' in lines[-3] | lines[-2]
  with Checkpoints(tmp_path, best_metric='score') as checkpoints:
    assert (checkpoints.last_step, checkpoints.best_step) == (7, 4)
    _, progress = checkpoints.restore(state)
  assert progress['data_position'] == 7 and progress['scores'] == scores


@pytest.mark.parametrize('broken_at', [3, 5])
def test_a_broken_loss_is_named_and_never_saved(tmp_path, broken_at):
  message = f'loss is nan at step {broken_at}'
  with pytest.raises(FloatingPointError, match=message):
    _run(tmp_path, num_steps=7, broken_at=broken_at)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.last_step in (None, 3, 4)
    assert (checkpoints.last_step or 0) < broken_at


def test_skipped_steps_count_in_no_mean():
  nan = float('nan')
  metrics = [
    {'loss': 1.0, 'skipped': 0},
    {'loss': nan, 'skipped': 1},
    {'loss': 3.0, 'skipped': 0},
    {'loss': 5.0, 'skipped': 0},
  ]
  means = training_loop._finite_means(metrics, step=4)
  assert means == {'loss': 3.0, 'skipped': 0.25}
  with pytest.raises(FloatingPointError, match='all steps from 8 to 9'):
    training_loop._finite_means([metrics[1]] * 2, step=9)
