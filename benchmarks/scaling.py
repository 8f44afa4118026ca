"""Two recipes on a TPU v5e-256 and on 64 H100, on paper.

  python -m benchmarks.scaling

compiles the step of each recipe at the shapes of one device, reads work,
collectives and memory off the compiled program, and prints the tables of
docs/scaling.md. Nothing is run; compiling takes minutes on a CPU. `--recipes`
takes some of them.

The program of a device is compiled on a mesh of two simulated devices. It is
the same on any number of them but for who takes part in a collective, which
`--check` tries on four.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.step_programs import coic_program, rsd_program, StepProgram
from common import collectives, configuration, cost, distributed, steps


@dataclasses.dataclass(frozen=True)
class Machine:
  """Devices and what is assumed of them; docs/scaling.md names the sources.

  Attributes:
    name: of the whole.
    devices: how many.
    per_host: devices of a host.
    peak: FLOP/s of a device in bfloat16, two for a multiply-add.
    memory: bytes of a device.
    memory_bandwidth: bytes/s.
    link: bytes/s that a device sends in an all-reduce over all of them.
    price: dollars of a device for an hour.
  """

  name: str
  devices: int
  per_host: int
  peak: float
  memory: float
  memory_bandwidth: float
  link: float
  price: float


MACHINES = (
  Machine('TPU v5e-256', 256, 4, 197e12, 16e9, 819e9, 90e9, 1.20),
  Machine('64 x H100', 64, 8, 989e12, 80e9, 3350e9, 50e9, 3.00),
)
# Shares of the two peaks that a step is assumed to reach.
COMPUTE_EFFICIENCY = 0.4
MEMORY_EFFICIENCY = 0.7


class Recipe(NamedTuple):
  """What to compile, and what of it changes with the batch.

  Attributes:
    config: file and argument.
    global_batch: on both machines.
    rule: of the learning rate, 'linear' or 'square root' in the batch.
    program: gives the step, its state and batch of a device, and constants.
  """

  config: str
  global_batch: int
  rule: str
  program: Callable[..., StepProgram]


class Figures(NamedTuple):
  """Of the compiled program of a device.

  Attributes:
    multiply_adds: of convolutions and matrix products, loops as they run.
    accessed: bytes that instructions read and write. XLA counts the body of a
      loop once; what loops add to the multiply-adds is taken to add as much.
    found: collectives.
    state: bytes of state, constants and batch.
    temporary: bytes of intermediate results at the peak.
    parameters: trained, by number.
  """

  multiply_adds: int
  accessed: float
  found: list[collectives.Collective]
  state: int
  temporary: int
  parameters: int


RECIPES: Mapping[str, Recipe] = {
  'rsd': Recipe('configs/rsd/imagenet.py', 4096, 'linear', rsd_program),
  'brn': Recipe('configs/coic/mixed.py:brn', 1024, 'square root', coic_program),
}


def load_config(recipe: Recipe) -> ml_collections.ConfigDict:
  """The config of a recipe, in bfloat16."""
  config = configuration.load(recipe.config)
  with config.unlocked():
    config.train.dtype = 'bfloat16'
  return config


def measure(recipe: Recipe, rows: int, devices: int = 2) -> Figures:
  """Compiles the step of a recipe, and reads its figures.

  Args:
    recipe: one of `RECIPES`.
    rows: examples of a device.
    devices: of the simulated mesh.

  Returns:
    Figures of one device.
  """
  mesh = distributed.make_mesh(jax.devices()[:devices])
  step, state, batch, constants = recipe.program(
    load_config(recipe), rows, devices
  )

  def lie(tree: Any, *axes: str) -> Any:
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  arguments = (
    lie(state),
    lie(batch, distributed.AXIS_NAME),
    *lie(constants),
  )
  mapped = steps.map_step(step, mesh, donate_state=True)
  multiply_adds, in_one_pass = (
    cost.multiply_adds(mapped, *arguments, repeat_loops=repeat)
    for repeat in (True, False)
  )
  compiled = mapped.lower(*arguments).compile()
  analysis, memory = compiled.cost_analysis(), compiled.memory_analysis()
  return Figures(
    multiply_adds,
    analysis['bytes accessed'] * multiply_adds / in_one_pass,
    collectives.collectives(compiled.as_text()),
    memory.argument_size_in_bytes,
    memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    sum(x.size for x in jax.tree.leaves(state.params)),
  )


def machine_rows(
  recipe: Recipe, machine: Machine, figures: Figures
) -> dict[str, str]:
  """What a recipe needs on a machine, by name of the table's row.

  Args:
    recipe: one of `RECIPES`.
    machine: one of `MACHINES`.
    figures: of the recipe at that machine's examples of a device.

  Returns:
    Cells of the machine's column. Times are of the roofline: the larger of
    computing and memory, and then the network.
  """
  config = load_config(recipe)
  growth = recipe.global_batch / config.train.batch_size
  factor = growth if recipe.rule == 'linear' else growth**0.5
  rate = config.optimizer.learning_rate
  num_steps = round(config.train.num_steps / growth)
  hosts = machine.devices // machine.per_host
  flops = 2 * figures.multiply_adds

  computing = flops / (machine.peak * COMPUTE_EFFICIENCY)
  memory = figures.accessed / (machine.memory_bandwidth * MEMORY_EFFICIENCY)
  reduced = collectives.total_bytes(figures.found, 'all-reduce')
  passes = 2 * (machine.devices - 1) / machine.devices
  network = passes * reduced / machine.link
  fastest, slowest = computing + network, max(computing, memory) + network
  hours = [num_steps * x / 3600 for x in (fastest, slowest)]
  dollars = [x * machine.devices * machine.price for x in hours]
  examples = [recipe.global_batch / x / hosts for x in (slowest, fastest)]
  used = figures.state + figures.temporary

  def between(values: Sequence[float], form: str = ',.1f') -> str:
    low, high = (format(x, form) for x in values)
    return low if low == high else f'{low} to {high}'

  return {
    'devices, on hosts': f'{machine.devices}, {hosts}',
    'examples of a device, of all': (
      f'{recipe.global_batch // machine.devices}, {recipe.global_batch:,}'
    ),
    f'learning rate, {recipe.rule} in the batch': (
      f'{rate:g} x {factor:.2f} = {rate * factor:.3g}'
    ),
    'steps for as many examples': f'{num_steps:,}',
    'multiply-adds of a device, 10^9': f'{figures.multiply_adds / 1e9:,.0f}',
    'bytes that instructions touch, GB': f'{figures.accessed / 1e9:,.1f}',
    'all-reduced, MB': f'{reduced / 1e6:.1f}',
    'state and batch, GB': f'{figures.state / 1e9:.2f}',
    'state, batch and intermediate, GB (of)': (
      f'{used / 1e9:.2f} ({machine.memory / 1e9:.0f})'
    ),
    'computing, ms': f'{1e3 * computing:.2f}',
    'memory, ms (at most)': f'{1e3 * memory:.2f}',
    'network, ms': f'{1e3 * network:.2f}',
    'step, ms': between([1e3 * fastest, 1e3 * slowest]),
    'examples/s for a host to load': between(examples, ',.0f'),
    'run, hours': between(hours, ',.2f'),
    'run, dollars': between(dollars, ',.0f'),
  }


def report(name: str, measured: Sequence[Figures]) -> str:
  """The tables of a recipe, as Markdown.

  Args:
    name: of `RECIPES`.
    measured: figures for each of `MACHINES`.

  Returns:
    A table with a column for each machine, and one of the collectives.
  """
  recipe = RECIPES[name]
  columns = [
    machine_rows(recipe, machine, figures)
    for machine, figures in zip(MACHINES, measured, strict=True)
  ]
  lines = [
    f'| `{recipe.config}` | ' + ' | '.join(x.name for x in MACHINES) + ' |',
    '|---|' + '---|' * len(MACHINES),
  ]
  for row in columns[0]:
    cells = (row, *(column[row] for column in columns))
    lines.append('| ' + ' | '.join(cells) + ' |')
  first = measured[0]
  return '\n'.join(
    [
      *lines,
      '',
      f'Of {first.parameters:,} parameters, {4 * first.parameters:,} bytes:',
      '',
      collectives.table(first.found),
    ]
  )


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the tables of each recipe."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--recipes', nargs='+', choices=[*RECIPES], default=[*RECIPES]
  )
  parser.add_argument(
    '--check', action='store_true', help='compile for four devices too'
  )
  options = parser.parse_args(arguments)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 4)
  for name in options.recipes:
    recipe = RECIPES[name]
    shares = [recipe.global_batch // x.devices for x in MACHINES]
    measured = [measure(recipe, rows) for rows in shares]
    print(report(name, measured) + '\n', flush=True)
    if options.check:
      for devices, found in (
        (2, measured[0]),
        (4, measure(recipe, shares[0], devices=4)),
      ):
        moved = collectives.total_bytes(found.found, 'all-reduce')
        print(
          f'On {devices} devices: {found.multiply_adds:,} multiply-adds, '
          f'{moved:,} bytes all-reduced.'
        )
      print()


if __name__ == '__main__':
  main()
