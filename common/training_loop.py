"""The loop of every trainer: step, measure, evaluate, save."""

import dataclasses
import logging
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from common import host_memory, steps
from common.array_types import Batch, PyTree
from common.checkpoints import Checkpoints, Progress
from common.metric_writers import MetricWriter
from common.preemption import Notice, PreemptedError
from common.progress import Chrono
from common.train_state import TrainState

_LOGGER = logging.getLogger(__name__)

# The stream of batches from a position in the data on, for a run that has done
# so many steps; the two differ after batches have been left out.
MakeBatches = Callable[[int, int], Iterable[Batch]]

# What becomes of a step whose loss or gradient is not finite.
ON_NON_FINITE = ('stop', 'skip', 'restore')
_MAX_RESTORES = 10  # Of one checkpoint.
# Metrics that are made of others, those last that are made of most.
_DERIVED = ('loss', 'gradient_norm', 'parameter_norm')


def loop_options(block: ml_collections.ConfigDict) -> dict[str, Any]:
  """The fields of `Loop` that the `train` block of a config has."""
  names = (
    'num_steps',
    'log_every_steps',
    'eval_every_steps',
    'save_every_steps',
    'on_non_finite',
    'tensorboard',
  )
  return {name: block[name] for name in names}


def compile_step(
  step: steps.Step,
  mesh: Mesh,
  block: ml_collections.ConfigDict,
  *,
  least_memory: bool = False,
) -> steps.MappedStep:
  """Maps a step over devices as the `train` block of a config says.

  Args:
    step: one update; the memory of its state is used again.
    mesh: from `distributed.make_mesh`.
    block: has `on_non_finite`, `parallelism` and `shard_optimizer`.
    least_memory: see `steps.map_step`.

  Returns:
    See `steps.map_step`.

  Raises:
    ValueError: as `steps.map_step`.
  """
  if block.on_non_finite == 'skip':
    step = steps.skip_non_finite(step)
  return steps.map_step(
    step,
    mesh,
    parallelism=block.parallelism,
    donate_state=True,
    shard_optimizer=block.shard_optimizer,
    least_memory=least_memory,
  )


class NonFiniteError(FloatingPointError):
  """A metric is not finite.

  Attributes:
    step: of the metric.
  """

  def __init__(self, message: str, step: int):
    """Says what and where."""
    super().__init__(message)
    self.step = step


@dataclasses.dataclass(kw_only=True)
class Loop:
  """Trains a state to a number of steps, from the beginning or a checkpoint.

  Attributes:
    step_fn: one update, `(state, batch, *constants) -> (state, metrics)`; its
      metrics are scalars on the device. Steps whose metric `steps.SKIPPED` is 1
      count in none of the others.
    make_batches: see `MakeBatches`.
    evaluate: scores of a state.
    best_metric: score whose best state is kept beside the last ones.
    batch_size: examples of a step over all devices, for the rate.
    num_steps: steps to have done at the end.
    log_every_steps: interval of the console and metrics lines, which are means
      over the interval.
    eval_every_steps: interval of evaluations; there is one at the end too.
    save_every_steps: interval of checkpoints. One is saved at every evaluation
      too (so that the best one is there), and at the end.
    on_non_finite: 'stop' the run; 'skip', for a step that leaves the state as
      it was, see `steps.skip_non_finite`; or 'restore' the last checkpoint and
      go on with the batches after the one at fault.
    constants: further arguments of the step.
    name_examples: says what a batch is made of, by its position in the data.
    pictures: what to show of a state that `evaluate` has just seen, see
      `MetricWriter.write_pictures`. Process 0 alone calls it, so it must not
      communicate: it computes on one device.
    tensorboard: write TensorBoard event files too.
  """

  step_fn: steps.MappedStep
  make_batches: MakeBatches
  evaluate: Callable[[TrainState], dict[str, float]]
  best_metric: str
  batch_size: int
  num_steps: int
  log_every_steps: int
  eval_every_steps: int
  save_every_steps: int
  on_non_finite: str = 'stop'
  constants: tuple[PyTree, ...] = ()
  name_examples: Callable[[int], Sequence[str]] | None = None
  pictures: Callable[[TrainState], Mapping[str, np.ndarray]] | None = None
  tensorboard: bool = False

  def run(
    self, state: TrainState, workdir: str | pathlib.Path
  ) -> tuple[TrainState, dict[str, float]]:
    """Trains, and goes on from the last checkpoint if there is one.

    Args:
      state: the first state, on its devices.
      workdir: the run folder.

    Returns:
      The last state and its scores.

    Raises:
      ValueError: the checkpoint is of another model or optimiser.
      FloatingPointError: a metric is not finite (with 'stop'), or is not
        finite time and again; names step and examples.
      OSError: a checkpoint can not be read or written.
      RuntimeError: a batch could not be read; the state before it is saved.
      PreemptedError: the machine is taken away; the state is saved.
    """
    if self.on_non_finite not in ON_NON_FINITE:
      raise ValueError(
        f'on_non_finite {self.on_non_finite!r} must be one of '
        f'{", ".join(ON_NON_FINITE)}'
      )
    _LOGGER.info('%d steps, in %s', self.num_steps, workdir)
    with (
      Checkpoints(workdir, best_metric=self.best_metric) as checkpoints,
      Notice() as notice,
    ):
      started = _Run(self, state, workdir, checkpoints, notice)
      try:
        return started.to_the_end()
      finally:
        started.writer.close()


class _Run:
  """What changes while a loop runs."""

  def __init__(
    self,
    loop: Loop,
    state: TrainState,
    workdir: str | pathlib.Path,
    checkpoints: Checkpoints,
    notice: Notice,
  ):
    self.loop, self.state = loop, state
    self.checkpoints, self.notice = checkpoints, notice
    self.step = self.position = 0
    self.scores: dict[str, float] = {}
    self.scored_at = self.saved_at = 0
    self.pending: list[dict[str, Any]] = []
    self.restores = self.warned_at = 0
    seconds = 0.0
    if checkpoints.last_step is not None:
      seconds = self._restore()
      _LOGGER.info('continuing from step %d', self.step)
    self.first = self.step
    self.chrono = Chrono(
      num_steps=loop.num_steps,
      batch_size=loop.batch_size,
      seconds_before=seconds,
    )
    self.writer = MetricWriter(
      workdir,
      num_steps=loop.num_steps,
      resumed_at=self.step,
      tensorboard=loop.tensorboard,
    )

  def to_the_end(self) -> tuple[TrainState, dict[str, float]]:
    loop = self.loop
    if self.step and self._evaluation_is_due() and self.scored_at != self.step:
      self._evaluate_and_save()  # The last start was ended before it had.
    if loop.on_non_finite == 'restore' and self.saved_at == 0:
      self._save()  # So that there is something to go back to.
    stream = self._open()
    while self.step < loop.num_steps:
      try:
        self._advance(stream)
      except NonFiniteError as error:
        self._go_back(error)
        stream = self._open()
    self.checkpoints.wait()
    return self.state, self.scores

  def _open(self) -> Iterator[Batch]:
    return iter(self.loop.make_batches(self.position, self.step))

  def _advance(self, stream: Iterator[Batch]) -> None:
    """One step, and what is due after it."""
    loop = self.loop
    batch = self._next(stream)
    self.state, metrics = loop.step_fn(self.state, batch, *loop.constants)
    if self.step == self.first:
      host_memory.return_freed()  # What compiling took.
    if self.pending:
      # At most two steps are under way, so batches do not pile up in memory.
      jax.block_until_ready(self.pending[-1])
    self.pending.append(metrics)
    self.step, self.position = self.step + 1, self.position + 1

    evaluating = self._evaluation_is_due()
    if evaluating or self.step % loop.log_every_steps == 0:
      self._log()
    if evaluating:
      self._evaluate_and_save()
    elif self.step % loop.save_every_steps == 0:
      self._save()
    if self.notice.reached(self.step):
      self._end_early()

  def _evaluation_is_due(self) -> bool:
    loop = self.loop
    return self.step >= loop.num_steps or self.step % loop.eval_every_steps == 0

  def _next(self, stream: Iterator[Batch]) -> Batch:
    try:
      return next(stream)
    except Exception as error:  # Sources and transforms can raise anything.
      what = f'the batch of step {self.step + 1} could not be read: {error!r}'
      if jax.process_count() > 1:
        raise RuntimeError(f'{what}; the last checkpoint stays') from error
      if self.step > self.saved_at:
        self._save()
        self.checkpoints.wait()
      raise RuntimeError(
        f'{what}; the state after step {self.step} is saved'
      ) from error

  def _log(self) -> None:
    means = self._finite_means()
    self.writer.write(self.step, means | self.chrono.measure(self.step))
    self.pending = []

  def _evaluate_and_save(self) -> None:
    with self.chrono.paused():
      try:
        with self.notice.interrupts():
          scores = self.loop.evaluate(self.state)
      except PreemptedError:
        self._end_early()
      self.scores, self.scored_at = scores, self.step
      self.writer.write(self.step, scores)
      if self.loop.pictures is not None and jax.process_index() == 0:
        pictures = self.loop.pictures(self.state)
        self.writer.write_pictures(self.step, pictures)
      self._save(scores)

  def _save(self, scores: Mapping[str, float] | None = None) -> None:
    self._finite_means()  # A broken state must not be saved.
    progress: Progress = {
      'data_position': self.position,
      'seconds': self.chrono.seconds,
      'scores': dict(self.scores),
      'scored_at': self.scored_at,
    }
    with self.chrono.paused():
      self.checkpoints.save(self.step, self.state, progress, scores)
    self.saved_at, self.restores = self.step, 0

  def _end_early(self) -> None:
    if self.step > self.saved_at:
      self._save()
    self.checkpoints.wait()
    raise PreemptedError(
      f'asked to end by SIGTERM: step {self.step} is saved, the same command '
      'goes on from there'
    )

  def _restore(self) -> float:
    """Takes up the last checkpoint; gives the time spent until then."""
    self.state, progress = self.checkpoints.restore(self.state)
    self.step = self.saved_at = int(self.state.step)
    self.position = int(progress['data_position'])
    self.scores = progress['scores']
    self.scored_at = int(progress['scored_at'])
    return float(progress['seconds'])

  def _go_back(self, error: NonFiniteError) -> None:
    """Restores, and moves on to the data after the batch at fault."""
    ahead = self.position - (self.step - error.step)
    if self.loop.on_non_finite != 'restore' or self.restores == _MAX_RESTORES:
      raise error
    self.restores += 1
    self._restore()
    _LOGGER.warning(
      '%s; back to step %d, without the %d batches up to that one',
      error,
      self.step,
      ahead - self.position,
    )
    self.position = ahead
    self.pending = []
    self.writer.rewind(self.step)

  def _finite_means(self) -> dict[str, float]:
    """Means of the metrics since the last line.

    Raises:
      NonFiniteError: one is not finite; names what, where, and the examples.
    """
    fetched = jax.device_get(self.pending)
    first = self.step - len(fetched) + 1
    counted = []
    for step, metrics in enumerate(fetched, start=first):
      bad = [k for k, x in metrics.items() if not math.isfinite(x)]
      bad.sort(
        key=lambda k: _DERIVED.index(k) if k in _DERIVED else -1
      )  # The term at fault comes first.
      if metrics.get(steps.SKIPPED):
        if step > self.warned_at:
          self.warned_at = step
          what = f'{bad[0]} is {metrics[bad[0]]}' if bad else 'not finite'
          _LOGGER.warning(
            'step %d is skipped: %s%s', step, what, self._examples_of(step)
          )
        continue
      counted.append(metrics)
      if bad:
        raise NonFiniteError(
          f'{bad[0]} is {metrics[bad[0]]} at step {step}'
          f'{self._examples_of(step)}',
          step,
        )
    if fetched and not counted:
      raise NonFiniteError(
        f'all steps from {first} to {self.step} were skipped: no gradient was '
        'finite',
        self.step,
      )
    names = counted[0].keys() if counted else ()
    means = {
      name: sum(float(m[name]) for m in counted) / len(counted)
      for name in names
    }
    if steps.SKIPPED in means:
      means[steps.SKIPPED] = 1.0 - len(counted) / len(fetched)
    return means

  def _examples_of(self, step: int) -> str:
    if self.loop.name_examples is None:
      return ''
    position = self.position - (self.step - step) - 1
    examples = self.loop.name_examples(position)
    return f', of the examples {", ".join(map(str, examples))}'
