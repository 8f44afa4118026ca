"""The loop on a state that only counts."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common import metric_writers, steps, training_loop
from common.checkpoints import Checkpoints
from common.preemption import PreemptedError
from common.train_state import TrainState

TX = optax.sgd(1.0)


def first_state():
  return TrainState.create(
    params={'count': jnp.zeros(())},
    model_state={},
    tx=TX,
    rng=jax.random.key(0),
  )


def _update(state, found):
  return state.apply_gradients(found.gradients, {}, TX), found.terms


def counting_step(broken_at=None):
  """Adds one; the loss is the sum, and not finite for one batch."""

  def find(state, batch):
    broken = jnp.where(batch == broken_at, jnp.nan, 0.0)
    loss = state.params['count'] + 1 + broken
    gradients = {'count': -jnp.ones(()) + broken}
    terms = {'loss': loss, 'gradient_norm': 1.0 + broken}
    return steps.Found(gradients, {}, terms)

  return steps.Step(find, _update)


def run(workdir, *, num_steps=7, step=None, batches=None, **options):
  loop = training_loop.Loop(
    **{
      'step_fn': jax.jit(step or counting_step()),
      'make_batches': batches
      or (lambda position, _: iter(range(position, 99))),
      'evaluate': lambda s: {'score': -abs(float(s.params['count']) - 4)},
      'best_metric': 'score',
      'batch_size': 1,
      'num_steps': num_steps,
      'log_every_steps': 2,
      'eval_every_steps': 4,
      'save_every_steps': 3,
      'name_examples': lambda position: [f'image{position}'],
    }
    | options
  )
  return loop.run(first_state(), workdir)


def losses(workdir):
  lines = metric_writers.read_metrics(workdir)
  return {x['step']: x['loss'] for x in lines if 'loss' in x}


def test_lines_scores_and_checkpoints(tmp_path):
  state, scores = run(tmp_path)
  assert float(state.params['count']) == 7 and scores == {'score': -3.0}
  assert losses(tmp_path) == {2: 1.5, 4: 3.5, 6: 5.5, 7: 7.0}
  lines = metric_writers.read_metrics(tmp_path)
  assert {x['step']: x['score'] for x in lines if 'score' in x} == {4: 0, 7: -3}
  assert 'eta_seconds' in lines[-3] | lines[-2]
  with Checkpoints(tmp_path, best_metric='score') as checkpoints:
    assert (checkpoints.last_step, checkpoints.best_step) == (7, 4)
    _, progress = checkpoints.restore(state)
  assert progress['data_position'] == 7 and progress['scores'] == scores
  # A finished run has nothing left to do, and knows its scores.
  assert run(tmp_path, step=lambda *_: None)[1] == scores


@pytest.mark.parametrize('broken_at', [2, 4])
def test_a_broken_loss_is_named_and_never_saved(tmp_path, broken_at):
  message = f'loss is nan at step {broken_at + 1}, of the examples image'
  with pytest.raises(FloatingPointError, match=f'{message}{broken_at}'):
    run(tmp_path, step=counting_step(broken_at))
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.last_step in (None, 3, 4)
    assert (checkpoints.last_step or 0) <= broken_at


def test_skipped_steps_count_in_no_mean(tmp_path, caplog):
  step = steps.skip_non_finite(counting_step(broken_at=4))
  state, _ = run(tmp_path, step=step, on_non_finite='skip')
  assert int(state.step) == 7 and float(state.params['count']) == 6
  assert losses(tmp_path) == {2: 1.5, 4: 3.5, 6: 5.0, 7: 6.0}
  warnings = [x.message for x in caplog.records if x.levelname == 'WARNING']
  assert warnings == ['step 5 is skipped: loss is nan, of the examples image4']


def test_nothing_but_skipped_steps_is_an_error(tmp_path):
  step = counting_step()

  def find(state, batch):
    found = step.find(state, batch)
    return found._replace(terms={**found.terms, 'loss': jnp.nan})

  broken = steps.skip_non_finite(steps.Step(find, step.update))
  with pytest.raises(FloatingPointError, match='all steps from 1 to 2 were'):
    run(tmp_path, step=broken, on_non_finite='skip')


def test_restoring_goes_around_the_batch(tmp_path, caplog):
  state, _ = run(tmp_path, step=counting_step(4), on_non_finite='restore')
  assert int(state.step) == 7 and float(state.params['count']) == 7
  assert 'back to step 4, without the 1 batches up to that one' in caplog.text
  assert losses(tmp_path) == {2: 1.5, 4: 3.5, 6: 5.5, 7: 7.0}
  with Checkpoints(tmp_path) as checkpoints:
    _, progress = checkpoints.restore(state)
  assert progress['data_position'] == 8


def test_restoring_comes_to_an_end(tmp_path):
  with pytest.raises(FloatingPointError, match='at step 1'):
    run(
      tmp_path,
      step=counting_step(broken_at=0),
      batches=lambda position, _: iter([0] * 99),
      on_non_finite='restore',
    )


def test_pictures_of_every_evaluation(tmp_path):
  def pictures(state):
    count = int(state.params['count'])
    return {'count': np.full((2, 2, 3), count, np.uint8)}

  run(tmp_path, num_steps=4, pictures=pictures)
  run(tmp_path, pictures=pictures)
  names = [f'pictures/count/{step:08d}.png' for step in (4, 7)]
  assert all((tmp_path / name).is_file() for name in names)
  lines = (tmp_path / metric_writers.PICTURES_FILE).read_text().splitlines()
  assert [name in line for name, line in zip(names, lines, strict=True)]
  assert losses(tmp_path) == {2: 1.5, 4: 3.5, 6: 5.5, 7: 7.0}


def test_constants_go_to_the_step(tmp_path):
  step = counting_step()

  def find(state, batch, factor):
    found = step.find(state, batch)
    return found._replace(gradients={'count': -factor})

  scaled = steps.Step(find, step.update)
  state, _ = run(tmp_path, step=scaled, constants=(jnp.full((), 2.0),))
  assert float(state.params['count']) == 14


def test_unknown_way(tmp_path):
  with pytest.raises(ValueError, match="'ignore' must be one of stop, skip"):
    run(tmp_path, on_non_finite='ignore')


def test_a_batch_that_cannot_be_read(tmp_path):
  def batches(position, _):
    yield from range(position, 5)
    raise FileNotFoundError('image5.png')

  message = r'batch of step 6 .*image5.png.* after step 5 is saved'
  with pytest.raises(RuntimeError, match=message):
    run(tmp_path, batches=batches)
  state, _ = run(tmp_path)
  assert float(state.params['count']) == 7


def end_at(step):
  """Batches whose reading brings the notice, after so many steps."""

  def batches(position, _):
    for number in range(position, 99):
      if number == step:
        os.kill(os.getpid(), signal.SIGTERM)
      yield number

  return batches


def test_a_notice_saves_and_ends(tmp_path):
  former = signal.getsignal(signal.SIGTERM)
  with pytest.raises(PreemptedError, match='step 2 is saved, the same command'):
    run(tmp_path, batches=end_at(1))
  assert signal.getsignal(signal.SIGTERM) is former
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.last_step == 2
  state, scores = run(tmp_path)
  assert float(state.params['count']) == 7 and scores == {'score': -3.0}


@pytest.mark.parametrize('at', [4, 7])
def test_a_notice_interrupts_an_evaluation_that_comes_again(tmp_path, at):
  def interrupted(state):
    if int(state.step) == at:
      os.kill(os.getpid(), signal.SIGTERM)
    return {'score': 0.0}

  with pytest.raises(PreemptedError, match=f'step {at} is saved'):
    run(tmp_path, evaluate=interrupted)
  run(tmp_path)
  lines = metric_writers.read_metrics(tmp_path)
  assert [x['step'] for x in lines if 'score' in x] == [4, 7]
  with Checkpoints(tmp_path, best_metric='score') as checkpoints:
    assert checkpoints.best_step == 4
