"""What a run would be, without running it: `--dry_run` of every trainer."""

import collections
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from common import cost, distributed, pictures
from common.array_types import Batch, PyTree
from common.train_state import TrainState
from common.training_loop import Loop
from common.whole_files import written_whole

PICTURE = pathlib.Path('dry_run', 'batch.png')
_ROWS, _WIDTH = 8, 8  # Of the grid of pictures; pairs take several columns.


def report(
  loop: Loop,
  state: TrainState,
  workdir: str | pathlib.Path,
  *,
  moments: tuple[Sequence[float], Sequence[float]] | None = None,
) -> str:
  """Compiles the step of a run and reads one batch, but trains nothing.

  Step and batch are those that the run ends with, since runs may begin with
  smaller ones. Writes `dry_run/batch.png` below the run folder, and nothing
  else. All processes of a run must call it.

  Args:
    loop: of the run.
    state: its first state, on its devices.
    workdir: the run folder.
    moments: mean and standard deviation, per channel, that float images of the
      batch were standardised by; None if they are in [0, 1].

  Returns:
    Tables of parameters, cost of the step, and arrays of the batch.

  Raises:
    ValueError: state, batch and step do not fit together.
  """
  last = max(loop.num_steps - 1, 0)
  batch = next(iter(loop.make_batches(0, last)))
  arguments = (state, batch, *loop.constants)
  compiled = loop.step_fn.lower(*arguments).compile()
  columns = _pictures(distributed.own_part(batch), moments)
  path = pathlib.Path(workdir) / PICTURE
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
      Image.fromarray(_sheet([*columns.values()])).save(partial, format='PNG')
  products = cost.multiply_adds(loop.step_fn, *arguments)
  return '\n'.join(
    [
      *_parameter_tables(state.params),
      f'step {last + 1} of {loop.num_steps}, on each of '
      f'{jax.device_count()} devices ({jax.devices()[0].device_kind})',
      *_costs(compiled, products),
      f'batch of {loop.batch_size}',
      *_columns(
        [(name, str(x.dtype), str([*x.shape])) for name, x in _leaves(batch)]
      ),
      f'{path}: {", ".join(columns)}',
    ]
  )


def _parameter_tables(params: Mapping[str, PyTree]) -> list[str]:
  """For each entry its modules down to the second level."""
  lines = []
  for entry, tree in params.items():
    counts: collections.Counter[str] = collections.Counter()
    for name, x in _leaves(tree):
      *modules, leaf = name.split('/')
      counts['/'.join(modules[:2]) or leaf] += x.size
    total = counts.total()
    rows = [
      (module, f'{count:>{len(f"{total:,}")},}', f'{count / total:6.1%}')
      for module, count in sorted(counts.items(), key=_in_reading_order)
    ]
    lines += [f'{entry}: {total:,} parameters', *_columns(rows)]
  return lines


def _in_reading_order(item: tuple[str, int]) -> str:
  """Block 2 before block 10."""
  return re.sub(r'\d+', lambda number: number[0].zfill(9), item[0])


def _costs(compiled: jax.stages.Compiled, products: int) -> list[str]:
  """What XLA says, as far as it does on this backend."""
  operations = (compiled.cost_analysis() or {}).get('flops')
  rows = [
    ('FLOPs', _readable(operations, 1000, 'FLOP'), 'bodies of loops once'),
    (
      '',
      _readable(2 * products, 1000, 'FLOP'),
      'of products and convolutions, all turns of loops',
    ),
  ]
  memory = compiled.memory_analysis()
  for title, name, remark in (
    ('arguments', 'argument', 'state, batch and constants'),
    ('intermediate', 'temp', ''),
    ('outputs', 'output', 'state and metrics'),
    ('shared', 'alias', 'of outputs, in the memory of arguments'),
  ):
    size = getattr(memory, f'{name}_size_in_bytes', None)
    rows.append((title, _readable(size, 1024, 'B'), remark))
  return _columns(rows)


def _readable(number: float | None, base: int, unit: str) -> str:
  if number is None:
    return 'not known'
  prefixes = ('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi')
  power = 0
  while number >= base and power < len(prefixes) - 1:
    number, power = number / base, power + 1
  prefix = prefixes[power] if base == 1024 else prefixes[power][:1]
  return f'{number:.4g} {prefix}{unit}'


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
  """Lines of aligned cells."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    '  ' + '  '.join(map(str.ljust, row, widths)).rstrip() for row in rows
  ]


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
  """Arrays by the path to them."""
  return [
    (jax.tree_util.keystr(path, simple=True, separator='/'), x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _pictures(
  batch: Batch, moments: tuple[Sequence[float], Sequence[float]] | None
) -> dict[str, np.ndarray]:
  """What of a batch are pictures: [n, h, w, c] by name; those of tasks too."""
  found = {}
  for name, x in _leaves(batch):
    if x.ndim < 4 or x.shape[-1] not in (1, 3):
      continue
    if moments is not None and x.dtype.kind == 'f':
      mean, std = (np.asarray(m, np.float32) for m in moments)
      x = x * std + mean
    found[name] = x.reshape(-1, *x.shape[-3:])
  return found


def _sheet(columns: Sequence[np.ndarray]) -> np.ndarray:
  """Some examples of a batch, each with what belongs to it beside it."""
  examples = [*zip(*columns, strict=False)]
  per_row = max(1, _WIDTH // len(columns))
  rows = [
    [picture for example in examples[i : i + per_row] for picture in example]
    for i in range(0, min(len(examples), _ROWS * per_row), per_row)
  ]
  return pictures.grid(rows)
