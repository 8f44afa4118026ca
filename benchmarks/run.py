"""Times ours against PyTorch, and writes `benchmarks/results`.

  python -m benchmarks.run                  # every case
  python -m benchmarks.run --only 'rsd_loss*'
  python -m benchmarks.run --list

Each case is a line: medians of both sides, the ratio within a round and its
spread, the peak memory of each side in a process of its own, and for ours the
time to compile and the share of the machine's matrix product. The process that
counts memory loads what the one that times has compiled, as all runs of a
program but its first do.
`python -m benchmarks.table` makes the table of the README from the files.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch

from benchmarks import cases
from benchmarks.side_by_side import (
  Case,
  interleaved,
  peak_mib,
  Prepared,
  require_same,
)
from common import host_memory
from results import environment

RESULTS = pathlib.Path(__file__).parent / 'results'


def threads() -> int:
  """Cores that this process may use; both sides use as many threads."""
  return len(os.sched_getaffinity(0))


def matrix_product_gflops(size: int = 2048) -> float:
  """What our side reaches at a square matrix product, in GFLOP/s."""
  x = jnp.ones((size, size))
  product = jax.jit(lambda x: x @ x)
  timed = Prepared(lambda: product(x).block_until_ready(), dict)
  seconds = interleaved(timed, timed)['ours_ms'] / 1e3
  return 2 * size**3 / seconds / 1e9


def measure(
  case: Case, *, rounds: int, warmup: int, peak_gflops: float
) -> dict[str, Any]:
  """Checks and times a case.

  Args:
    case: what to do.
    rounds: that count.
    warmup: rounds before those.
    peak_gflops: of the machine, see `matrix_product_gflops`.

  Returns:
    A row of the results, without memory.
  """
  ours, peer = case.ours(), case.peer()
  require_same(case, ours, peer)
  row: dict[str, Any] = {
    'name': case.name,
    'target': case.target,
    'processor': environment.processor(),
  }
  row |= interleaved(ours, peer, rounds=rounds, warmup=warmup)
  row['compile_seconds'] = ours.compile_seconds
  if case.multiply_adds is not None:
    gflops = 2 * case.multiply_adds() / row['ours_ms'] / 1e6
    row |= {'gflops': gflops, 'share_of_peak': gflops / peak_gflops}
  if case.compiled_peer is not None:
    compiled = case.compiled_peer()
    against = interleaved(ours, compiled, rounds=rounds, warmup=warmup)
    row['compiled_peer_ms'] = against['peer_ms']
    row['ratio_to_compiled_peer'] = against['ratio']
  return row


def peak_of(name: str, side: str) -> float:
  """MiB that a side takes at most; for a process of its own.

  Args:
    name: of the case.
    side: 'ours' or 'peer'.
  """
  torch.set_num_threads(threads())
  (case,) = (c for c in cases.all_cases() if c.name == name)
  _start_up()
  return peak_mib(case.ours if side == 'ours' else case.peer)


def _start_up() -> None:
  """Makes both libraries load what they load before their first gradient."""
  jax.jit(jax.grad(lambda x: (x @ x).sum()))(jnp.ones((64, 64)))
  x = torch.ones((64, 64), requires_grad=True)
  (x @ x).sum().backward()
  # Our side reads names and shapes of its weights off the other side's
  # networks, for which PyTorch loads modules that its optimisers load too.
  with torch.device('meta'):
    torch.nn.init.trunc_normal_(torch.nn.Linear(64, 64).weight)
    torch.cartesian_prod(torch.arange(2), torch.arange(2))


def memory(case: Case) -> dict[str, float]:
  """Peak memory of both sides, each in a process of its own."""
  host_memory.return_freed()  # So that there is room for those.
  found = {}
  for side in ('ours', 'peer'):
    command = [sys.executable, '-m', 'benchmarks.peak_memory', case.name, side]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
      raise RuntimeError(f'{case.name}: no memory of {side}, see above')
    found[side] = float(process.stdout.split()[-1])
  return {
    'ours_mib': found['ours'],
    'peer_mib': found['peer'],
    'memory_ratio': found['ours'] / found['peer'],
  }


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--only', default='*', help='pattern of names')
  parser.add_argument('--rounds', type=int, default=7, help='that count')
  parser.add_argument('--warmup', type=int, default=1, help='rounds before')
  parser.add_argument('--list', action='store_true', help='only the names')
  parser.add_argument(
    '--output', type=pathlib.Path, default=RESULTS, help='folder of the results'
  )
  options = parser.parse_args(arguments)
  chosen = [
    c for c in cases.all_cases() if fnmatch.fnmatch(c.name, options.only)
  ]
  if not chosen:
    sys.exit(f'--only {options.only!r} fits no case; --list shows them')
  if options.list:
    print('\n'.join(case.name for case in chosen))
    return
  torch.set_num_threads(threads())
  options.output.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as cache:
    _keep_programs(cache)
    _measure_all(chosen, options)


def _keep_programs(cache: str) -> None:
  """Compiled ones in a folder, also of processes that this one starts."""
  for option, value in (
    ('jax_compilation_cache_dir', cache),
    ('jax_persistent_cache_min_compile_time_secs', 0),
  ):
    jax.config.update(option, value)
    os.environ[option.upper()] = str(value)


def _measure_all(chosen: Sequence[Case], options: argparse.Namespace) -> None:
  peak = matrix_product_gflops()
  print(
    f'matrix product: {peak:.0f} GFLOP/s on {threads()} threads', flush=True
  )
  for case in chosen:
    row = measure(
      case, rounds=options.rounds, warmup=options.warmup, peak_gflops=peak
    )
    row |= memory(case)
    path = options.output / f'{case.name.replace("/", "_")}.json'
    path.write_text(json.dumps([row], indent=2) + '\n')
    print(
      f'{case.name}: ratio {row["ratio"]:.2f} '
      f'({row["ratio_min"]:.2f} to {row["ratio_max"]:.2f}), ours '
      f'{row["ours_ms"]:.1f} ms, peer {row["peer_ms"]:.1f} ms, memory ratio '
      f'{row["memory_ratio"]:.2f}',
      flush=True,
    )


if __name__ == '__main__':
  main()
