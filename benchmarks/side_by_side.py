"""Two programs that do the same work, timed in turn.

Machines are noisy, and slow down for minutes at a time. So a round runs ours
and then the peer, the next round the peer first, and what counts is the ratio
within a round; the median over rounds is reported, with the smallest and the
largest. Before that, both must compute the same numbers.

Each side runs twice in a row, and its second run counts, as in a loop of steps.
A virtual machine can lose memory that lay free during the other side's run, and
whoever asks for it next waits until it is back.
"""

import dataclasses
import gc
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from common import host_memory

_PROCESSES = pathlib.Path('/proc')


class Prepared(NamedTuple):
  """One side, ready to run: programs compiled, inputs in memory.

  Attributes:
    run: does the work once, and returns when it is done.
    values: what this side computes from the first state on, by name, to be
      compared with the other side; called before `run`.
    compile_seconds: of the programs; None where nothing is compiled.
  """

  run: Callable[[], Any]
  values: Callable[[], Mapping[str, Any]]
  compile_seconds: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """Work that both sides do.

  Attributes:
    name: of the table, unique.
    ours: makes our side. Nothing large is made before it is called.
    peer: makes the other side, in eager PyTorch.
    compiled_peer: the other side under `torch.compile`, where that works.
    tolerance: largest difference between the two, relative to the largest
      value of each array.
    multiply_adds: of one run, for the share of the machine's peak; None where
      the work is not made of products.
    target: ratio that is asked for.
  """

  name: str
  ours: Callable[[], Prepared]
  peer: Callable[[], Prepared]
  compiled_peer: Callable[[], Prepared] | None = None
  tolerance: float = 1e-4
  multiply_adds: Callable[[], int] | None = None
  target: float = 1.0


def require_same(case: Case, ours: Prepared, peer: Prepared) -> None:
  """Compares what the two sides compute.

  Args:
    case: for its tolerance, and its name in the message.
    ours: one side.
    peer: the other side.

  Raises:
    AssertionError: they have other names, shapes or numbers.
  """
  found, expected = (
    {name: np.asarray(value) for name, value in side.values().items()}
    for side in (ours, peer)
  )
  if found.keys() != expected.keys():
    raise AssertionError(
      f'{case.name}: values {sorted(found)} and {sorted(expected)}'
    )
  for name, value in expected.items():
    np.testing.assert_array_equal(
      found[name].shape, value.shape, err_msg=f'{case.name}: {name}'
    )
    assert np.isfinite(value).all(), f'{case.name}: {name} is not finite'
    scale = max(float(np.abs(value).max(initial=0)), 1e-12)
    np.testing.assert_allclose(
      found[name] / scale,
      value / scale,
      rtol=0,
      atol=case.tolerance,
      err_msg=f'{case.name}: {name}',
    )


def interleaved(
  ours: Prepared, peer: Prepared, *, rounds: int = 7, warmup: int = 1
) -> dict[str, float]:
  """Times two sides in turn.

  Args:
    ours: one side.
    peer: the other side.
    rounds: that count, each with two runs of either side.
    warmup: rounds before those.

  Returns:
    `ours_ms` and `peer_ms`, medians; `ratio`, the median of ours / peer within
    a round, `ratio_min` and `ratio_max`.
  """
  times: tuple[list[float], list[float]] = ([], [])
  for number in range(warmup + rounds):
    order = (0, 1) if number % 2 == 0 else (1, 0)
    for side in order:
      run = (ours, peer)[side].run
      run()
      start = time.perf_counter()
      run()
      elapsed = time.perf_counter() - start
      if number >= warmup:
        times[side].append(elapsed)
  ratios = [a / b for a, b in zip(*times, strict=True)]
  return {
    'ours_ms': statistics.median(times[0]) * 1e3,
    'peer_ms': statistics.median(times[1]) * 1e3,
    'ratio': statistics.median(ratios),
    'ratio_min': min(ratios),
    'ratio_max': max(ratios),
  }


def resident_mib(field: str = 'VmRSS', process: str = 'self') -> float:
  """Memory of a process as Linux counts it, in MiB."""
  status = _PROCESSES / process / 'status'
  for line in status.read_text().splitlines():
    if line.startswith(field + ':'):
      return int(line.split()[1]) / 1024
  raise RuntimeError(f'{status} has no {field}')


def peak_mib(make: Callable[[], Prepared], *, runs: int = 3) -> float:
  """Memory that one side holds at most while it runs.

  Call it in a process of its own, with the libraries imported and started up:
  what those take is left out, inputs, state and results count, and all of the
  processes that the side has started. What compiling takes for a while does
  not.

  Args:
    make: makes the side.
    runs: that count, after one that does not.

  Returns:
    MiB.
  """
  _give_back()
  before = resident_mib()
  side = make()
  side.run()
  _give_back()
  # The peak starts again from here.
  (_PROCESSES / 'self' / 'clear_refs').write_text('5')
  for _ in range(runs):
    side.run()
  started = (
    process
    for children in _PROCESSES.glob('self/task/*/children')
    for process in children.read_text().split()
  )
  return (
    resident_mib('VmHWM')
    - before
    + sum(resident_mib('VmHWM', process) for process in started)
  )


def _give_back() -> None:
  """Returns memory that is free to the system, so that it does not count."""
  gc.collect()
  host_memory.return_freed()
