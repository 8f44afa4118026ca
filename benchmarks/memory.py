"""Memory of a training step by config and settings, as the compiler counts it.

  python -m benchmarks.memory
  python -m benchmarks.memory --only brn

compiles the step of each case for one device, at the batch of a device, and
prints rows of docs/memory.md. Nothing is run; a row takes half a minute to ten
minutes on a CPU. The steps of TRNR are in `benchmarks/trnr_memory.py`.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.step_programs import (
  coic_program,
  needed,
  rsd_program,
  StepProgram,
)
from common import configuration


@dataclasses.dataclass(frozen=True)
class Case:
  """A step to compile.

  Attributes:
    name: of the recipe, in the table and for `--only`.
    config: file and argument.
    program: gives the step and the shapes it takes.
    rows: examples of the device.
    settings: of the config, by dotted name.
  """

  name: str
  config: str
  program: Callable[..., StepProgram]
  rows: int
  settings: Mapping[str, Any]


def _cases() -> list[Case]:
  remat = {'model.remat': True}
  parts = {'train.accumulation_steps': 4}
  halves = {'train.accumulation_steps': 2}
  narrow = {'train.dtype': 'bfloat16'}
  recipes = (
    (
      'Swin-T to ResNet-18, 128 x 224 px',
      'configs/rsd/cifar100.py:swin_tiny_patch4_window7_224->resnet18',
      rsd_program,
      128,
      ({}, narrow, remat, parts, parts | remat),
    ),
    (
      'ConvNeXt-T to DeiT-T, 128 x 224 px',
      'configs/rsd/cifar100.py:convnext_tiny->deit_tiny_patch16_224',
      rsd_program,
      128,
      ({}, remat, parts, parts | remat),
    ),
    (
      'BRN, 12 x 100 px',
      'configs/coic/mixed.py:brn',
      coic_program,
      12,
      ({}, narrow, remat, parts, parts | remat),
    ),
    (
      'DGUNet, 16 x 128 px',
      'configs/coic/mixed.py:dgunet',
      coic_program,
      16,
      ({}, remat, parts | remat),
    ),
    (
      'IDT, 8 x 128 px',
      'configs/coic/mixed.py:idt',
      coic_program,
      8,
      ({}, remat, halves | remat),
    ),
  )
  return [
    Case(name, config, program, rows, settings)
    for name, config, program, rows, several in recipes
    for settings in several
  ]


def step_memory(case: Case) -> tuple[float, float]:
  """Compiles a step, and reads what it needs.

  Args:
    case: the step.

  Returns:
    GiB of state, batch and constants, and of intermediate results at the peak.
  """
  config = configuration.load(case.config, case.settings)
  return needed(case.program(config, case.rows).lower().compile())


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the table, row by row."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--only', default='', help='recipes with this in them')
  options = parser.parse_args(arguments)
  print(
    '| recipe | settings | state and batch, GiB | intermediate, GiB |\n'
    '|---|---|---|---|'
  )
  for case in _cases():
    if options.only.lower() not in case.name.lower():
      continue
    kept, peak = step_memory(case)
    changed = [f'`{name}={value}`' for name, value in case.settings.items()]
    settings = ', '.join(changed) or 'as published'
    print(f'| {case.name} | {settings} | {kept:.2f} | {peak:.2f} |', flush=True)


if __name__ == '__main__':
  main()
