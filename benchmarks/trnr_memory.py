"""Memory of a step of TRNR at the paper's size, as the compiler counts it.

  python -m benchmarks.trnr_memory

compiles the update of an MSResNet (48 features, 4 stages) by 5 tasks of 12 + 12
patches of 64 pixels with 2 inner steps, for first and second order, tasks in
turn or at once, with and without rematerialisation, and prints a table. Nothing
is run. Compiling takes minutes on a CPU.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.step_programs import needed, trnr_program
from common import configuration

# Order, tasks, and whether inner steps and blocks are computed again.
_CASES = (
  ('first', 'scan', False, False),
  ('first', 'scan', False, True),
  ('first', 'vmap', False, False),
  ('second', 'scan', False, False),
  ('second', 'scan', True, False),
  ('second', 'scan', False, True),
  ('second', 'scan', True, True),
)


def step_memory(
  order: str,
  over_tasks: Any,
  remat_steps: bool,
  remat_blocks: bool,
  *,
  size: int = 64,
) -> tuple[float, float]:
  """Compiles a step, and reads what it needs.

  Args:
    order: 'first' or 'second'.
    over_tasks: see `trnr.adaptation.meta_loss`.
    remat_steps: see `remat` there.
    remat_blocks: see `remat` in `trnr.models.RestorationNetwork`.
    size: of a patch, in pixels.

  Returns:
    GiB of state and batch, and of intermediate results at the peak.
  """
  config = configuration.load(
    'configs/trnr/rain.py',
    {
      'model.remat': remat_blocks,
      'adaptation.first_order': order == 'first',
      'adaptation.over_tasks': over_tasks,
      'adaptation.remat': remat_steps,
    },
  )
  return needed(trnr_program(config, size=size).lower().compile())


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the table, row by row."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', type=int, default=64, help='of a patch')
  options = parser.parse_args(arguments)
  print(
    '| order | tasks | inner steps again | blocks again | state and batch, '
    'GiB | intermediate, GiB |'
  )
  print('|---|---|---|---|---|---|')
  for order, over_tasks, steps, blocks in _CASES:
    kept, peak = step_memory(
      order, over_tasks, steps, blocks, size=options.size
    )
    words = ('yes' if x else 'no' for x in (steps, blocks))
    cells = (order, over_tasks, *words, f'{kept:.2f}', f'{peak:.2f}')
    print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  main()
