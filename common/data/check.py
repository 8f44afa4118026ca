"""Checks a data set: `python -m common.data.check FOLDER --layout rain200l`.

Decodes every picture. Says how many pairs each split has and which published
version that is, and lists files without a partner, damaged ones, pairs of two
sizes, and pictures that are in both splits. FOLDER has train and test, or only
one of them, or is itself one split; `common.data.derain_sets` has the layouts.
`realint` is a folder of rainy pictures without clean ones.
"""

import argparse
import collections
import concurrent.futures
import functools
import hashlib
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from common import console
from common.data import derain_sets, images, pairing, pairs, versions

LAYOUTS = (*derain_sets.LAYOUTS, 'realint', 'pairs')
_SPLITS = ('train', 'test')
_SHOWN = 5  # Names in a note.
_EXAMPLES = """
examples:
  python -m common.data.check Rain100L --layout rain100l
  python -m common.data.check RealInt --layout realint
  python -m common.data.check mine --layout pairs --input_folder wet \\
    --target_folder dry --input_pattern '(\\d+)_\\d+\\.png'

The exit code is 1 if there are problems, and 0 for notes alone.
"""


class Contents(NamedTuple):
  """What a split holds.

  Attributes:
    num_pairs: pairs by name, or pictures of `realint`.
    num_intact: of these, those that can be read and have one size.
    sizes: how many of these have each (height, width).
    num_scenes: different clean pictures.
  """

  num_pairs: int
  num_intact: int
  sizes: dict[tuple[int, int], int]
  num_scenes: int


class Report(NamedTuple):
  """What a check found.

  Attributes:
    version: the published version, by the counts, or 'unknown version, ...'.
    unit: what the counts are of, 'pairs' or 'pictures'.
    splits: by name, 'all' for a folder that is one split.
    problems: one line each, which names the files.
    notes: of what need not be wrong.
  """

  version: str
  unit: str
  splits: dict[str, Contents]
  problems: tuple[str, ...]
  notes: tuple[str, ...]


def check_set(
  layout: str, folder: str | os.PathLike[str], **options: str
) -> Report:
  """Decodes a set, and compares its pictures.

  Two pictures are the same if their decoded pixels are. The same picture in
  train and test is a problem; twice in one split is a note. So is a pair of
  two equal pictures of `spa`, whose rain may miss a cut; elsewhere that is a
  problem. Pairs that cannot be told apart by name are not read.

  Args:
    layout: one of `LAYOUTS`.
    folder: of the set.
    **options: for 'pairs', of `derain_sets.own_pairs`.

  Returns:
    All that was found.

  Raises:
    FileNotFoundError: there is no such folder, or no split in it.
    ValueError: no split can be opened, and why; or an unknown layout or option.
  """
  opened, problems = _open(layout, folder, options)
  splits, notes = {}, []
  seen = {}
  for split, source in opened.items():
    found = _read_all(source, split)
    problems += found.problems
    seen[split] = found.files
    splits[split] = Contents(
      len(source),
      sum(found.sizes.values()),
      found.sizes,
      len({*found.files['target'].values()}),
    )
    notes += [
      f'{split}: {len(groups)} {role} pictures are in several files: '
      f'{_listed([" = ".join(names) for names in groups])}'
      for role, files in found.files.items()
      if (groups := _repeated(files))
    ]
    if found.equal:
      line = 'input and target are the same picture'
      if layout == 'spa':
        notes.append(f'{split}: {line}: {_listed(found.equal)}')
      else:
        problems += [f'{name}: {line}' for name in found.equal]
  if len(opened) > 1:
    problems += _in_both(seen['train'], seen['test'])
  notes += _not_read(folder, opened.values())
  if 'all' not in opened:
    notes += [f'there is no {x} split' for x in _SPLITS if x not in opened]
  counts = {split: found.num_pairs for split, found in splits.items()}
  unit = 'pictures' if layout == 'realint' else 'pairs'
  unknown = f'unknown version, {sum(counts.values())} {unit}'
  return Report(
    versions.identify(layout, counts) or unknown,
    unit,
    splits,
    tuple(dict.fromkeys(problems)),
    tuple(notes),
  )


def table(report: Report) -> str:
  """Markdown of what each split holds."""
  lines = [
    f'| split | {report.unit} | intact | scenes | height x width |',
    '|---|---|---|---|---|',
  ]
  for split, found in report.splits.items():
    most = sorted(found.sizes.items(), key=lambda item: -item[1])
    sizes = [f'{h} x {w} ({count})' for (h, w), count in most]
    lines.append(
      f'| {split} | {found.num_pairs} | {found.num_intact} | '
      f'{found.num_scenes} | {_listed(sizes)} |'
    )
  return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
  """Checks a set; see the module, or `--help`."""
  parser = argparse.ArgumentParser(
    prog='python -m common.data.check',
    description=__doc__,
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('folder', help='of the set')
  parser.add_argument('--layout', required=True, choices=LAYOUTS)
  own = parser.add_argument_group('for --layout pairs')
  for key, value in _own_options().items():
    own.add_argument(
      f'--{key}',
      metavar='PATTERN' if key.endswith('pattern') else 'FOLDER',
      help=f'default {value}',
    )
  options = vars(parser.parse_args(arguments))
  layout, folder = options.pop('layout'), options.pop('folder')
  given = {key: value for key, value in options.items() if value is not None}
  if given and layout != 'pairs':
    parser.error(f'--{next(iter(given))} is for --layout pairs')
  try:
    report = check_set(layout, folder, **given)
  except (OSError, ValueError) as error:
    parser.exit(1, f'error: {error}\n')
  console.show(table(report))
  console.show(f'\n{layout}: {report.version}')
  for note in report.notes:
    console.show(f'note: {note}')
  for problem in report.problems:
    print(f'error: {problem}', file=sys.stderr)
  if report.problems:
    parser.exit(1, f'problems: {len(report.problems)}\n')


class _Found(NamedTuple):
  """Digests of the pictures by role and file, and what else reading shows."""

  files: dict[str, dict[str, bytes]]
  sizes: dict[tuple[int, int], int]
  equal: list[str]
  problems: list[str]


def _own_options() -> dict[str, str]:
  """Those of `derain_sets.own_pairs`, and their defaults."""
  parameters = inspect.signature(derain_sets.own_pairs).parameters
  return {
    key: parameter.default
    for key, parameter in parameters.items()
    if key not in ('folder', 'split')
  }


def _open(
  layout: str, folder: str | os.PathLike[str], options: dict[str, str]
) -> tuple[dict[str, pairs.PairSource], list[str]]:
  """Sources of the splits that are there, and problems of their names."""
  if layout not in LAYOUTS:
    raise ValueError(f'layout {layout!r} must be one of {[*LAYOUTS]}')
  if not pathlib.Path(folder).is_dir():
    raise FileNotFoundError(f'there is no folder {folder}')
  if layout == 'realint':
    # Rainy pictures, but they are read as clean ones are.
    return {'all': pairs.clean_folder(folder)}, []
  where: dict[str, Any] = {'folder': folder, **options}
  open_split = functools.partial(derain_sets.open_set, layout, **where)
  opened: dict[str, pairs.PairSource] = {}
  problems: list[str] = []
  absent = []
  parts = {split: _parts(layout, split, options) for split in _SPLITS}
  for split in _SPLITS if any(parts.values()) else ():
    try:
      source, found = _tolerantly(functools.partial(open_split, split=split))
    except FileNotFoundError as error:
      absent.append(str(error))
      if any(pathlib.Path(folder, part).exists() for part in parts[split]):
        problems.append(str(error))
    except ValueError as error:
      problems.append(str(error))
    else:
      opened[split] = source
      problems += found
  if opened or problems or layout == 'spa':
    if not opened:
      raise ValueError('; '.join(dict.fromkeys(problems or absent)))
    return opened, problems
  source, problems = _tolerantly(functools.partial(open_split, split=None))
  return {'all': source}, problems


def _parts(layout: str, split: str, options: dict[str, str]) -> set[str]:
  """What is below the folder of a set only if this split is."""
  if layout == 'pairs':
    options = _own_options() | options
    parts = [options['input_folder'], options['target_folder']]
  else:
    parts = [
      part if '{split}' in part else part.split('/')[0]
      for choice in derain_sets.LAYOUTS[layout]
      if choice.split in (None, split)
      for part in choice.folders
    ]
    if layout == 'spa':
      return {*parts}
  found = (re.match(r'.*?\{split\}[^/]*', part) for part in parts)
  return {match[0].replace('{split}', split) for match in found if match}


def _tolerantly(
  open_source: Callable[[], pairs.PairSource],
) -> tuple[pairs.PairSource, list[str]]:
  """What can be paired, and what cannot."""
  try:
    return open_source(), []
  except pairing.PairingError as error:
    inputs, targets = error.paired
    return pairs.FilePairs(tuple(inputs), tuple(targets)), [*error.problems]


def _files_of(source: pairs.PairSource) -> dict[str, Sequence]:
  """Paths by role."""
  if isinstance(source, pairs.FilePairs):
    return {'input': source.inputs, 'target': source.targets}
  if isinstance(source, pairs.SideBySide):
    return {'input': source.paths, 'target': source.paths}
  assert isinstance(source, pairs.CleanFiles)
  return {'target': source.paths}


def _read_all(source: pairs.PairSource, split: str) -> _Found:
  """Decodes all, on all cores: decoders and digests let other threads run."""
  files = _files_of(source)
  found = _Found({role: {} for role in files}, {}, [], [])

  def examine(index: int) -> tuple[dict[str, bytes], tuple[int, int]] | str:
    try:
      example = source[index]
    except ValueError as error:
      return str(error)
    shape = example['target'].shape[:2]
    return {role: _digest(example[role]) for role in files}, shape

  progress = tqdm.tqdm(total=len(source), desc=split, disable=None)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, progress:
    # In parts, since the pool takes all that it is given at once.
    for start in range(0, len(source), 1024):
      indices = range(start, min(start + 1024, len(source)))
      for index, seen in zip(indices, pool.map(examine, indices), strict=True):
        progress.update()
        paths = {role: str(of_role[index]) for role, of_role in files.items()}
        if isinstance(seen, str):
          reasons = [x for path in paths.values() for x in _damage(path)]
          found.problems.extend(reasons or [seen])
          continue
        digests, shape = seen
        found.sizes[shape] = found.sizes.get(shape, 0) + 1
        for role, path in paths.items():
          found.files[role][path] = digests[role]
        if len(files) == 2 and digests['input'] == digests['target']:
          found.equal.append(' and '.join(dict.fromkeys(paths.values())))
  return found


def _digest(picture: np.ndarray) -> bytes:
  shape = str(picture.shape).encode()
  return hashlib.blake2b(picture.tobytes(), digest_size=16, key=shape).digest()


def _damage(path: str) -> list[str]:
  """Why a file cannot be read; a pair that fails may have two such files."""
  try:
    images.read_rgb(path)
  except ValueError as error:
    return [str(error)]
  return []


def _repeated(files: Mapping[str, bytes]) -> list[list[str]]:
  """Files of the same picture."""
  groups = collections.defaultdict(list)
  for name, digest in files.items():
    groups[digest].append(name)
  return [names for names in groups.values() if len(names) > 1]


def _in_both(
  train: Mapping[str, Mapping[str, bytes]],
  test: Mapping[str, Mapping[str, bytes]],
) -> list[str]:
  """Names the files of train whose pictures are in test."""
  found = []
  for role in train:
    tested = {digest: name for name, digest in test[role].items()}
    found += [
      f'{name} of train and {tested[digest]} of test have the same {role}'
      for name, digest in train[role].items()
      if digest in tested
    ]
  return found


def _not_read(
  folder: str | os.PathLike[str], sources: Iterable[pairs.PairSource]
) -> list[str]:
  """Says which files of a set, or beside its pictures, no split has."""
  read = {
    os.path.abspath(path)
    for source in sources
    for paths in _files_of(source).values()
    for path in paths
  }
  # A walk does not follow links, and pairs of one's own may lie elsewhere.
  places = {os.path.abspath(folder), *map(os.path.dirname, read)}
  others = {
    os.path.join(place, name)
    for start in places
    for place, _, names in os.walk(start)
    for name in names
  } - read
  by_place = collections.defaultdict(list)
  for path in sorted(others):
    by_place[os.path.dirname(path)].append(os.path.basename(path))
  return [
    f'not read in {place}: {_listed(names)}'
    for place, names in by_place.items()
  ]


def _listed(names: Sequence[str]) -> str:
  more = len(names) - _SHOWN
  return ', '.join(names[:_SHOWN]) + (f' and {more} more' if more > 0 else '')


if __name__ == '__main__':
  console.run(main)
