"""Which files of two folders belong together, by their names."""

import collections
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

from common.data import images

# Pairs files of the same name, whatever their suffix.
SAME_NAME = r'(.+)\.\w+'

_Files = dict[str | int, list[pathlib.Path]]


class PairingError(ValueError):
  """Some files do not go together; the message names the first of them.

  Attributes:
    problems: one line for each of them, which names it.
    paired: inputs and targets, as many, that do go together.
  """

  def __init__(
    self,
    message: str,
    problems: Iterable[str],
    paired: tuple[Sequence, Sequence] = ((), ()),
  ):
    """See the class."""
    super().__init__(message)
    self.problems = tuple(problems)
    self.paired = paired


def match_folders(
  input_folder: str | os.PathLike[str],
  target_folder: str | os.PathLike[str],
  *,
  input_pattern: str = SAME_NAME,
  target_pattern: str = SAME_NAME,
) -> tuple[tuple[pathlib.Path, ...], tuple[pathlib.Path, ...]]:
  """Finds the files of pairs, as `pairs.paired_folders` says.

  Args:
    input_folder: see there, as for all arguments.
    target_folder: may be the same folder.
    input_pattern: of the file names; the first group is the key.
    target_pattern: as above.

  Returns:
    Inputs and their targets, as many.

  Raises:
    FileNotFoundError: a folder is absent.
    PairingError: files do not fit or pair, or targets share a key; with all
      of them, and with what remains.
    ValueError: a folder has no images, or a pattern is none or has no group.
  """
  for pattern in (input_pattern, target_pattern):
    _require_group(pattern)
  shared = pathlib.Path(input_folder) == pathlib.Path(target_folder)
  both = f'exactly one of {input_pattern!r} and {target_pattern!r}'
  # As keys, since a shared folder says the same twice.
  summaries: dict[str, None] = {}
  problems: dict[str, None] = {}
  by_key: list[_Files] = []
  for folder, pattern, other in (
    (input_folder, input_pattern, target_pattern),
    (target_folder, target_pattern, input_pattern),
  ):
    files, unfit = _by_key(folder, pattern, other if shared else None)
    by_key.append(files)
    if unfit:
      fit = both if shared else pattern
      summary = f'{len(unfit)} file names do not fit {fit}: {_listed(unfit)}'
      summaries[summary] = None
      problems |= {
        f'the name of {path} does not fit {fit}': None for path in unfit
      }
  inputs, targets = by_key
  for key, paths in targets.items():
    for path in paths[1:]:
      line = f'{paths[0]} and {path} are both the clean image {key!r}'
      summaries[line] = problems[line] = None
  for one, others, folder in (
    (inputs, targets, target_folder),
    (targets, inputs, input_folder),
  ):
    alone = [path for key in one.keys() - others for path in one[key]]
    if alone:
      alone.sort(key=natural)
      line = f'{len(alone)} files have no partner in {folder}: {_listed(alone)}'
      summaries[line] = None
      problems |= {f'{path} has no partner in {folder}': None for path in alone}
  paired = [
    (path, targets[key][0])
    for key in sorted(inputs, key=lambda key: (isinstance(key, str), key))
    for path in inputs[key]
    if len(targets.get(key, ())) == 1
  ]
  columns = tuple(one for one, _ in paired), tuple(other for _, other in paired)
  if problems:
    raise PairingError('; '.join(summaries), problems, columns)
  return columns


def image_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
  """The image files of a folder, by their suffix, hidden ones passed over.

  Args:
    folder: where they are, not below it.

  Returns:
    Paths in the natural order of the names (2 before 10).

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it has no images.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise FileNotFoundError(f'there is no folder {folder}')
  files = [p for p in folder.iterdir() if p.suffix.lower() in images.SUFFIXES]
  files = [path for path in files if not path.name.startswith('.')]
  if not files:
    raise ValueError(f'{folder} has no image files')
  return sorted(files, key=natural)


def natural(path: pathlib.Path) -> tuple[list[str | int], str]:
  """Sorts '2.png' before '10.png'."""
  parts = re.split(r'(\d+)', path.name)
  # Words and numbers alternate, so like is compared with like.
  return [int(p) if i % 2 else p for i, p in enumerate(parts)], path.name


def _require_group(pattern: str) -> None:
  try:
    groups = re.compile(pattern).groups
  except re.error as error:
    raise ValueError(
      f'the pattern {pattern!r} is no regular expression: {error}'
    ) from error
  if groups == 0:
    raise ValueError(f'the pattern {pattern!r} has no group for the key')


def _by_key(
  folder: str | os.PathLike[str], pattern: str, other: str | None
) -> tuple[_Files, list[pathlib.Path]]:
  """Files by their key, and files that do not fit.

  With `other`, the pattern of the other files in the same folder, a file of
  both patterns is as wrong as one of none.
  """
  files: _Files = collections.defaultdict(list)
  unfit = []
  for path in image_files(folder):
    match = re.fullmatch(pattern, path.name)
    key = match and match[1]
    fits_other = (
      other is not None and re.fullmatch(other, path.name) is not None
    )
    if (key is not None) == fits_other:
      unfit.append(path)
    elif key is not None:
      files[int(key) if key.isdecimal() else key].append(path)
  return files, unfit


def _listed(paths: Sequence[pathlib.Path]) -> str:
  """The first names in order, and how many more there are."""
  names = [str(path) for path in sorted(paths, key=natural)]
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(names[:5]) + more
