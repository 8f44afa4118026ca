"""What the forms of layers for CPUs gain over the plain ones.

  python -m benchmarks.layers

runs each layer with its gradient in the form that CPUs get and in that which
accelerators get, both on this machine and in turn, and prints a row of a
Markdown table for each: medians, their ratio, and the memory of intermediate
results as the compiler plans it.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.growth import medians
from common.array_types import Array
from common.layers.dense_convolution import convolution
from common.layers.max_pool import max_pool
from common.layers.per_sample_convolution import per_sample_convolution

_MEBI = 2**20
_HEAD = """\
| layer, with gradient | input | ms | plain, ms | times | MiB | plain, MiB |
|---|---|---|---|---|---|---|"""
Layer = Callable[..., Array]


class Case(NamedTuple):
  """A layer and what it is called with.

  Attributes:
    name: of the row.
    layer: of the arrays.
    shapes: of the arrays, float32.
  """

  name: str
  layer: Layer
  shapes: tuple[tuple[int, ...], ...]


def _depthwise(x: Array, kernel: Array) -> Array:
  return convolution(x, kernel, padding=kernel.shape[0] // 2, groups=x.shape[3])


def _pairwise(x: Array, kernel: Array) -> Array:
  groups = x.shape[3] // kernel.shape[2]
  return convolution(x, kernel, padding=kernel.shape[0] // 2, groups=groups)


def _per_sample(x: Array, kernels: Array) -> Array:
  return per_sample_convolution(x, kernels, padding=1)


def _in_loop(x: Array, kernel: Array) -> Array:
  """Three convolutions by one kernel, as of a recurrent network."""

  def turn(x: Array, _: None) -> tuple[Array, None]:
    return convolution(x, kernel, padding=1), None

  x, _ = jax.lax.scan(turn, x, length=3)
  return x


CASES = (
  Case(
    'depthwise convolution, 7 x 7', _depthwise, ((8, 56, 56, 96), (7, 7, 1, 96))
  ),
  Case(
    'convolution of pairs of channels, 5 x 5',
    _pairwise,
    ((1, 40, 60, 64), (5, 5, 2, 32)),
  ),
  Case(
    'a kernel for each picture, 3 x 3',
    _per_sample,
    ((6, 50, 50, 32), (6, 3, 3, 32, 32)),
  ),
  Case(
    'convolution, 3 x 3',
    functools.partial(convolution, padding=1),
    ((16, 64, 64, 48), (3, 3, 48, 48)),
  ),
  Case(
    'convolution in a loop of three turns',
    _in_loop,
    ((16, 32, 32, 32), (3, 3, 32, 32)),
  ),
  Case(
    'max pooling, 3 x 3',
    functools.partial(max_pool, window=3, strides=2, padding=1),
    ((8, 112, 112, 64),),
  ),
)


def compiled(case: Case, platform: str) -> tuple[Any, list[Array]]:
  """The gradient of a layer, in the form for a platform, and its arguments."""
  keys = jax.random.split(jax.random.key(0), len(case.shapes))
  arrays = [
    jax.random.normal(key, shape)
    for key, shape in zip(keys, case.shapes, strict=True)
  ]
  # A square, since the gradient of a sum does not need the result.
  gradient = jax.grad(
    lambda *arrays: jnp.square(case.layer(*arrays)).sum(),
    argnums=tuple(range(len(arrays))),
  )
  with mock.patch('jax.default_backend', return_value=platform):
    return jax.jit(gradient).lower(*arrays).compile(), arrays


def _wait_for(run: Layer, arrays: Sequence[Array]) -> None:
  jax.block_until_ready(run(*arrays))


def measure(case: Case, *, rounds: int) -> str:
  """A row of the table.

  Args:
    case: to measure.
    rounds: that count, after two that do not.
  """
  forms = {name: compiled(case, name) for name in ('cpu', 'gpu')}
  runs = {
    name: functools.partial(_wait_for, run, arrays)
    for name, (run, arrays) in forms.items()
  }
  ours, plain = (1e3 * x for x in medians(runs, rounds=rounds).values())
  memory = [
    run.memory_analysis().temp_size_in_bytes / _MEBI
    for run, _ in forms.values()
  ]
  size = ' x '.join(map(str, case.shapes[0]))
  cells = (
    case.name,
    size,
    f'{ours:,.0f}',
    f'{plain:,.0f}',
    f'{plain / ours:,.1f}',
    f'{memory[0]:.0f}',
    f'{memory[1]:.0f}',
  )
  return '| ' + ' | '.join(cells) + ' |'


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=7, help='that count')
  options = parser.parse_args()
  print(_HEAD)
  for case in CASES:
    print(measure(case, rounds=options.rounds), flush=True)


if __name__ == '__main__':
  main()
