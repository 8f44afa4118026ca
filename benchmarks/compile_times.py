"""How long the steps of the published configs take to compile.

  python -m benchmarks.compile_times
  python -m benchmarks.compile_times --only cifar100

traces the step of each config for one device at its own batch, and compiles it
with an empty cache of compiled programs; then both again, as a second run with
the same cache does. Every run traces, so its first step waits for the first
column and one of the others. Nothing is run. Prints a Markdown table, a row at
a time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.step_programs import (
  coic_program,
  rsd_program,
  StepProgram,
  trnr_program,
)
from common import configuration


def published() -> Iterator[tuple[str, Callable[[Any], StepProgram]]]:
  """Config files with their arguments, and what makes the step of each."""

  def rsd(config: Any) -> StepProgram:
    return rsd_program(config, config.train.batch_size)

  def coic(config: Any) -> StepProgram:
    return coic_program(config, config.train.batch_size)

  for name in ('cifar100', 'imagenet'):
    path = f'configs/rsd/{name}.py'
    for pair in configuration.module(path).PAIRS:
      yield f'{path}:{pair}', rsd
  for network in ('brn', 'rcdnet', 'dgunet', 'idt', 'drsformer'):
    for method in ('baseline', 'coic'):
      yield f'configs/coic/mixed.py:{network},{method}', coic
  for name in ('rain100l', 'rain800'):
    yield f'configs/trnr/rain.py:{name}', trnr_program


def seconds_of(program: StepProgram) -> tuple[float, float]:
  """Time to trace a step, and then to compile it."""
  jax.clear_caches()
  start = time.perf_counter()
  lowered = program.lower()
  traced = time.perf_counter()
  lowered.compile()
  return traced - start, time.perf_counter() - traced


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the table, row by row."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--only', default='', help='configs with this in them')
  options = parser.parse_args(arguments)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  print('| step | traced, s | compiled, s | from the cache, s |')
  print('|---|---|---|---|')
  for path, make in published():
    if options.only not in path:
      continue
    with tempfile.TemporaryDirectory() as cache:
      jax.config.update('jax_compilation_cache_dir', cache)
      compilation_cache.reset_cache()
      program = make(configuration.load(path))
      traced, cold = seconds_of(program)
      _, warm = seconds_of(program)
    print(f'| `{path}` | {traced:.1f} | {cold:.1f} | {warm:.1f} |', flush=True)


if __name__ == '__main__':
  main()
