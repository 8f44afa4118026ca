"""The loop of every trainer: step, measure, evaluate, save."""

import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from common.array_types import Batch
from common.checkpoints import Checkpoints, Progress
from common.metric_writers import MetricWriter
from common.progress import Chrono
from common.train_state import TrainState

_LOGGER = logging.getLogger(__name__)

StepFunction = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]

# A metric of steps that can leave the state as it was: 1 where they did.
SKIPPED = 'skipped'


def run_or_resume(
  state: TrainState,
  *,
  workdir: str | pathlib.Path,
  make_batches: Callable[[int], Iterable[Batch]],
  best_metric: str,
  batch_size: int,
  num_steps: int,
  tensorboard: bool = False,
  **options: Any,
) -> tuple[TrainState, dict[str, float]]:
  """Trains from the last checkpoint of a run folder, or from the beginning.

  Args:
    state: the first state, on its devices.
    workdir: the run folder.
    make_batches: opens the stream of batches after so many steps.
    best_metric: score whose best state is kept beside the last one.
    batch_size: examples of a step over all devices, for the rate.
    num_steps: steps to have done at the end.
    tensorboard: write TensorBoard event files too.
    **options: the other options of `run`.

  Returns:
    The last state and its scores.

  Raises:
    ValueError: the checkpoint is of another model or optimiser.
    FloatingPointError: as `run`.
  """
  with Checkpoints(workdir, best_metric=best_metric) as checkpoints:
    first_step, seconds, scores = 0, 0.0, {}
    if checkpoints.last_step is not None:
      state, progress = checkpoints.restore(state)
      first_step = int(progress['data_position'])
      seconds, scores = float(progress['seconds']), progress['scores']
      _LOGGER.info('continuing from step %d', first_step)
    if first_step >= num_steps:
      return state, scores
    writer = MetricWriter(
      workdir,
      num_steps=num_steps,
      resumed_at=first_step,
      tensorboard=tensorboard,
    )
    state, scores = run(
      state,
      batches=make_batches(first_step),
      chrono=Chrono(
        num_steps=num_steps, batch_size=batch_size, seconds_before=seconds
      ),
      writer=writer,
      checkpoints=checkpoints,
      first_step=first_step,
      num_steps=num_steps,
      **options,
    )
    writer.close()
  return state, scores


def run(
  state: TrainState,
  *,
  step_fn: StepFunction,
  batches: Iterable[Batch],
  evaluate: Callable[[TrainState], dict[str, float]],
  chrono: Chrono,
  writer: MetricWriter,
  checkpoints: Checkpoints,
  first_step: int,
  num_steps: int,
  log_every_steps: int,
  eval_every_steps: int,
  save_every_steps: int,
) -> tuple[TrainState, dict[str, float]]:
  """Trains from `first_step` to `num_steps`.

  Args:
    state: state after `first_step` steps.
    step_fn: one update; its metrics are scalars on the device. Steps whose
      metric `SKIPPED` is 1 count in none of the others.
    batches: endless, from the batch after `first_step` on.
    evaluate: scores of a state.
    chrono: the clock of the run.
    writer: gets the metrics.
    checkpoints: gets the states; one is saved every `save_every_steps`, at
      every evaluation (so that the best one is there) and at the end.
    first_step: steps done before.
    num_steps: steps to have done at the end.
    log_every_steps: interval of the console and metrics lines, which are means
      over the interval.
    eval_every_steps: interval of evaluations; there is one at the end too.
    save_every_steps: interval of checkpoints.

  Returns:
    The last state and its scores.

  Raises:
    FloatingPointError: a metric is not finite, or all steps between two
      lines were skipped; names the steps.
  """
  scores: dict[str, float] = {}
  pending: list[dict[str, Any]] = []
  stream = iter(batches)
  for step in range(first_step + 1, num_steps + 1):
    state, metrics = step_fn(state, next(stream))
    if pending:
      # At most two steps are under way, so batches do not pile up in memory.
      jax.block_until_ready(pending[-1])
    pending.append(metrics)

    last = step == num_steps
    evaluating = last or step % eval_every_steps == 0
    saving = evaluating or step % save_every_steps == 0
    if last or step % log_every_steps == 0:
      means = _finite_means(pending, step)
      writer.write(step, means | chrono.measure(step))
      pending = []
    elif saving:
      _finite_means(pending, step)  # A broken state must not be saved.
    if saving:
      with chrono.paused():
        if evaluating:
          scores = evaluate(state)
          writer.write(step, scores)
        progress = _progress(step, chrono, scores)
        checkpoints.save(step, state, progress, scores if evaluating else None)
  return state, scores


def _progress(
  step: int, chrono: Chrono, scores: Mapping[str, float]
) -> Progress:
  return {
    'data_position': step,
    'seconds': chrono.seconds,
    'scores': dict(scores),
  }


def _finite_means(pending: list[dict[str, Any]], step: int) -> dict[str, float]:
  """Means over steps; an error that names what is not finite, and where."""
  fetched = jax.device_get(pending)
  first = step - len(fetched) + 1
  counted = []
  for offset, metrics in enumerate(fetched, start=first):
    if metrics.get(SKIPPED):
      continue
    counted.append(metrics)
    for name, value in metrics.items():
      if not math.isfinite(value):
        raise FloatingPointError(f'{name} is {value} at step {offset}')
  if fetched and not counted:
    raise FloatingPointError(
      f'all steps from {first} to {step} were skipped: no gradient was finite'
    )
  names = counted[0].keys() if counted else ()
  means = {
    name: sum(float(m[name]) for m in counted) / len(counted) for name in names
  }
  if SKIPPED in means:
    means[SKIPPED] = 1.0 - len(counted) / len(fetched)
  return means
