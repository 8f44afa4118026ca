"""The notice that this machine is about to be taken away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class PreemptedError(Exception):
  """The run has been asked to end, and can be taken up again."""


class Notice:
  """Listens for SIGTERM; a context manager.

  Cluster schedulers send it some seconds to minutes before they kill. With
  several processes JAX listens for it in all of them, and they agree on a step.
  """

  def __init__(self) -> None:
    """Hears nothing before the context is entered."""
    self._heard = False
    self._interruptible = False
    self._former: Any = None
    self._listens = False

  def __enter__(self) -> Self:
    """Listens; in the main thread alone, since Python allows no other."""
    main = threading.current_thread() is threading.main_thread()
    self._listens = jax.process_count() == 1 and main
    if self._listens:
      self._former = signal.signal(signal.SIGTERM, self._hear)
    return self

  def __exit__(self, *_: object) -> None:
    """Leaves the signal as it was."""
    if self._listens:
      signal.signal(signal.SIGTERM, self._former)

  def reached(self, step: int) -> bool:
    """Whether to save now and end; the same on all processes.

    Args:
      step: steps done. With several processes every one must be asked about.
    """
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._heard

  @contextmanager
  def interrupts(self) -> Iterator[None]:
    """Lets a notice break off what is done inside, by a `PreemptedError`.

    With several processes it goes on to its end.
    """
    if self._heard:
      raise PreemptedError
    self._interruptible = True
    try:
      yield
    finally:
      self._interruptible = False

  def _hear(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._heard = True
    if self._interruptible:
      self._interruptible = False
      raise PreemptedError
