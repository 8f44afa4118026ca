"""Time: how fast a run goes and when it ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Chrono:
  """Rate and remaining time of a run, compilation and pauses left out.

  The time spent is part of a checkpoint, so the total survives a restart.
  """

  def __init__(
    self,
    *,
    num_steps: int,
    batch_size: int,
    seconds_before: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      num_steps: length of the run.
      batch_size: examples per step, over all devices.
      seconds_before: time that earlier starts of this run have spent.
      clock: seconds from some fixed time, for tests.
    """
    self._num_steps = num_steps
    self._batch_size = batch_size
    self._clock = clock
    self._seconds_before = seconds_before
    self._started = clock()
    self._mark: tuple[int, float] | None = None

  @property
  def seconds(self) -> float:
    """Wall time of the run so far, earlier starts included."""
    return self._seconds_before + self._clock() - self._started

  @contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves evaluation and saving out of the rate."""
    start = self._clock()
    yield
    if self._mark is not None:
      step, since = self._mark
      self._mark = step, since + self._clock() - start

  def measure(self, step: int) -> dict[str, float]:
    """Rate since the last call, for metric writers.

    The first call only sets the mark: the steps before it held compilation.

    Args:
      step: steps done.

    Returns:
      `steps_per_second`, `examples_per_second` and `eta_seconds`, or nothing
      on the first call.
    """
    now = self._clock()
    mark, self._mark = self._mark, (step, now)
    if mark is None or step <= mark[0] or now <= mark[1]:
      return {}
    rate = (step - mark[0]) / (now - mark[1])
    return {
      'steps_per_second': rate,
      'examples_per_second': rate * self._batch_size,
      'eta_seconds': (self._num_steps - step) / rate,
    }


def format_seconds(seconds: float) -> str:
  """Hours, minutes and seconds, as `1h02m03s`, `2m03s` or `3s`."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02d}m{rest:02d}s'
  return f'{minutes}m{rest:02d}s' if minutes else f'{rest}s'
