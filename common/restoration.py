"""Restores files: pictures in, pictures out, whatever the network.

What the commands `coic.restore` and `trnr.restore` share.
"""

import argparse
import glob
import logging
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from common import compilation_cache, host_memory
from common.data import picture_files
from common.data.images import SUFFIXES

_LOGGER = logging.getLogger(__name__)

Restore = Callable[[np.ndarray], np.ndarray]
EXAMPLES = """
examples:
  python -m {module} --weights RUN photo.jpg --output restored
  python -m {module} --weights RUN folder 'more/*.png' --output restored
"""


class Problem(NamedTuple):
  """A file that could not be restored.

  Attributes:
    path: the file.
    reason: why.
  """

  path: pathlib.Path
  reason: str


def find(inputs: Sequence[str]) -> list[pathlib.Path]:
  """Files that are asked for.

  Args:
    inputs: files, folders (all images in them, not below) and patterns.

  Returns:
    Each file once, folders and patterns in the order of names.

  Raises:
    FileNotFoundError: an input is not there, or has no image; names it.
  """
  found: list[pathlib.Path] = []
  for item in inputs:
    path = pathlib.Path(item)
    if path.is_dir():
      files = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
    elif glob.has_magic(item) and not path.exists():
      files = [pathlib.Path(p) for p in glob.glob(item, recursive=True)]
    else:
      files = [path] if path.exists() or path.is_symlink() else []
    if not files:
      raise FileNotFoundError(f'{item} is no image, and has none')
    found += sorted(files)
  return [*dict.fromkeys(found)]


def restore_files(
  restore: Restore,
  inputs: Sequence[str],
  output: str | pathlib.Path,
  *,
  self_ensemble: bool = False,
  side_by_side: bool = False,
) -> list[Problem]:
  """Restores files into a folder, under their names.

  Depth, alpha, orientation and colour profile stay, see
  `data.picture_files`. GIF files, whose palettes would spoil the result,
  become .png.

  Args:
    restore: of RGB in [0, 1], float32 [h, w, 3], to the same shape.
    inputs: see `find`.
    output: folder; made if need be. Inputs are never overwritten.
    self_ensemble: mean over the eight flips and turns of each picture.
    side_by_side: write NAME.before_after.png too.

  Returns:
    What could not be restored, and why; all else is.

  Raises:
    FileNotFoundError: as `find`.
    ValueError: two inputs have one name, or an output would be an input.
  """
  paths = find(inputs)
  output = pathlib.Path(output)
  targets = {path: output / _written_name(path) for path in paths}
  _require_apart(targets)
  output.mkdir(parents=True, exist_ok=True)
  problems = []
  run = _ensemble(restore) if self_ensemble else restore
  with host_memory.returned_when_freed():
    for path, target in tqdm.tqdm(
      targets.items(), unit='picture', disable=None
    ):
      try:
        picture = picture_files.read(path)
        restored = run(picture.pixels)
        picture_files.write(target, restored, picture)
        if side_by_side:
          both = np.concatenate([picture.pixels, restored], axis=1)
          picture_files.write(
            target.with_name(f'{target.stem}.before_after.png'),
            both,
            picture_files.Picture(both),
          )
      except (OSError, ValueError) as error:
        problems.append(Problem(path, str(error)))
  return problems


def parser(module: str, description: str) -> argparse.ArgumentParser:
  """The arguments that both commands have.

  Args:
    module: of the command, for its examples.
    description: first lines of its help.

  Returns:
    A parser, to be completed.
  """
  made = argparse.ArgumentParser(
    prog=f'python -m {module}',
    description=description,
    epilog=EXAMPLES.format(module=module),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument('inputs', nargs='+', help='images, folders, or patterns')
  made.add_argument(
    '--weights', required=True, help='run folder, or weights of any kind'
  )
  made.add_argument('--output', required=True, help='folder')
  made.add_argument(
    '--tile',
    type=int,
    default=256,
    help='side of the tiles of large pictures, in pixels',
  )
  made.add_argument(
    '--overlap', type=int, default=64, help='of neighbouring tiles, in pixels'
  )
  made.add_argument(
    '--self_ensemble',
    action='store_true',
    help='mean over flips and turns: eight times the work, a little better',
  )
  made.add_argument(
    '--side_by_side', action='store_true', help='write before and after, too'
  )
  return made


def run(
  made: argparse.ArgumentParser,
  options: argparse.Namespace,
  load: Callable[[], Restore],
) -> None:
  """Loads, restores, lists problems, and exits with 1 if there are any.

  Args:
    made: from `parser`.
    options: of that parser.
    load: reads the weights.
  """
  compilation_cache.enable()
  try:
    problems = restore_files(
      load(),
      options.inputs,
      options.output,
      self_ensemble=options.self_ensemble,
      side_by_side=options.side_by_side,
    )
  except (ImportError, OSError, ValueError) as error:
    made.exit(1, f'error: {error}\n')
  for problem in problems:
    print(f'error: {problem.reason}', file=sys.stderr)
  if problems:
    made.exit(1, f'{len(problems)} of the pictures are not restored\n')


def _written_name(path: pathlib.Path) -> str:
  if path.suffix.lower() in picture_files.WRITABLE:
    return path.name
  return f'{path.name}.png'


def _require_apart(targets: dict[pathlib.Path, pathlib.Path]) -> None:
  by_target: dict[pathlib.Path, pathlib.Path] = {}
  for path, target in targets.items():
    if target in by_target:
      raise ValueError(
        f'{by_target[target]} and {path} would both be written to {target}'
      )
    by_target[target] = path
  for target in by_target:
    if target.exists() and any(_is_same(target, path) for path in targets):
      raise ValueError(f'{target} is an input; choose another --output')


def _is_same(first: pathlib.Path, second: pathlib.Path) -> bool:
  try:
    return first.samefile(second)
  except OSError:
    return False


def _ensemble(restore: Restore) -> Restore:
  def mean(pixels: np.ndarray) -> np.ndarray:
    total = np.zeros_like(pixels)
    for turns in range(4):
      for flipped in (False, True):
        view = np.rot90(pixels[:, ::-1] if flipped else pixels, turns)
        restored = np.rot90(restore(np.ascontiguousarray(view)), -turns)
        total += restored[:, ::-1] if flipped else restored
    return total / 8

  return mean
