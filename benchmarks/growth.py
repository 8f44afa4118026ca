"""How time grows with the batch, with pixels and with tasks.

  python -m benchmarks.growth

runs an RSD step at four batch sizes, MSResNet on pictures of four sizes, and a
TRNR step of four numbers of tasks, each twice as large as the one before, in
turn. Prints the medians as a Markdown table, with the time for a unit of work
beside that of the smallest, and draws docs/images/growth.svg.
"""

import argparse
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from matplotlib import figure

from benchmarks.step_programs import rsd_program, StepProgram, trnr_program
from common import configuration
from common.initialization import initialize
from trnr import evaluate, models

_PLOT = pathlib.Path(__file__).parents[1] / 'docs' / 'images' / 'growth.svg'
Run = Callable[[], object]
Key = TypeVar('Key', bound=Hashable)


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the table, and draws."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=7, help='that count')
  options = parser.parse_args(arguments)
  print('| work | size | ms | of a unit, against the smallest |')
  print('|---|---|---|---|')
  canvas = figure.Figure(figsize=(9, 3), layout='constrained')
  plots = canvas.subplots(1, 3)
  for axes, (name, make) in zip(plots, _GROWING.items(), strict=True):
    found = medians(make(), rounds=options.rounds)
    smallest = min(found)
    for size, seconds in found.items():
      share = seconds / size / (found[smallest] / smallest)
      print(f'| {name} | {size:,} | {1e3 * seconds:.1f} | {share:.2f} |')
    axes.loglog([*found], [1e3 * x for x in found.values()], 'o-')
    linear = [1e3 * found[smallest] * size / smallest for size in found]
    axes.loglog([*found], linear, '--', color='gray', label='linear')
    axes.set(xlabel=name, ylabel='ms')
    axes.legend()
  canvas.savefig(_PLOT, metadata={'Date': None})


def medians(runs: Mapping[Key, Run], *, rounds: int) -> dict[Key, float]:
  """Seconds of each run, the runs in turn.

  Args:
    runs: by size, or by another name.
    rounds: that count, after two that do not.
  """
  times: dict[Key, list[float]] = {key: [] for key in runs}
  for number in range(rounds + 2):
    for key, run in runs.items():
      start = time.perf_counter()
      run()
      if number >= 2:
        times[key].append(time.perf_counter() - start)
  return {key: statistics.median(values) for key, values in times.items()}


def _batches() -> dict[int, Run]:
  config = configuration.load('configs/rsd/cifar100_small.py')
  return {size: _step(rsd_program(config, size)) for size in (32, 64, 128, 256)}


def _tasks() -> dict[int, Run]:
  runs = {}
  for count in (1, 2, 4, 8):
    config = configuration.load(
      'configs/trnr/rain.py', {'sampling.num_tasks': count}
    )
    runs[count] = _step(trnr_program(config, size=16))
  return runs


def _pixels() -> dict[int, Run]:
  network = models.create('msresnet')
  image = jnp.full((1, 64, 64, 3), 0.5)
  variables = initialize(network, jax.random.key(0), image)
  runs = {}
  for height, width in ((120, 160), (160, 240), (240, 320), (320, 480)):
    picture = jnp.full((1, height, width, 3), 0.5)
    restore = functools.partial(evaluate.restore, network, variables, picture)
    runs[height * width] = lambda restore=restore: restore().block_until_ready()
  return runs


def _step(program: StepProgram) -> Run:
  """Goes on from state to state, from small numbers on."""
  state, batch, constants = jax.tree.map(
    _filled, (program.state, program.batch, program.constants)
  )
  compiled = program.lower().compile()

  def run() -> None:
    nonlocal state
    state, metrics = compiled(state, batch, *constants)
    jax.block_until_ready((state, metrics))

  return run


def _filled(shape: jax.ShapeDtypeStruct) -> jax.Array:
  if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
    return jax.random.key(0)
  values = jax.random.uniform(jax.random.key(1), shape.shape, maxval=0.1)
  return values.astype(shape.dtype)


_GROWING = {
  'batch of an RSD step': _batches,
  'pixels, MSResNet': _pixels,
  'tasks of a TRNR step': _tasks,
}


if __name__ == '__main__':
  main()
