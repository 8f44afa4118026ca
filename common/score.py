"""Scores pictures that are there: `python -m common.score PREDICTED TARGET`.

Two pictures, or two folders of them, paired by name without suffix. Prints PSNR
(dB) and SSIM of each picture, and their means, under named protocols
(`--list` says what they mean). Files have 8 or 16 bits, colour or grey.
"""

import argparse
import collections
import csv
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

import tqdm

from common import compilation_cache, console, metrics, scores
from common.data import pairing, picture_files
from common.data.pairing import PairingError
from common.whole_files import written_whole

# Of grey pictures, those among them that do not need colour.
PROTOCOLS = ('trnr_rgb', 'matlab_y', 'coic_y')
_EXAMPLES = """
examples:
  python -m common.score restored.png clean.png
  python -m common.score results/ Rain100L/test/norain/ --csv scores.csv
  python -m common.score results/ norain/ --protocols matlab_y,y_8bit \\
    --predicted_pattern '(\\d+)_\\d+\\.png' --target_pattern '(\\d+)\\.jpg'
  python -m common.score --list
"""
_LAST_LINE = (
  'RSD (ICCV 2025) classifies: its score is top-1 accuracy, by '
  '`python -m rsdjax.evaluate`.\n'
)


def score_files(
  predicted: str | os.PathLike[str],
  target: str | os.PathLike[str],
  *,
  protocols: Sequence[str] | None = None,
  predicted_pattern: str = pairing.SAME_NAME,
  target_pattern: str = pairing.SAME_NAME,
) -> dict[str, dict[str, float]]:
  """Scores picture files.

  Args:
    predicted: a picture, or a folder of them.
    target: the clean picture, or a folder, of the same names but for suffixes.
    protocols: names in `metrics.PROTOCOLS`; None takes `PROTOCOLS`, and of
      these for grey pictures those that score channels as they are.
    predicted_pattern: of file names, see `pairs.paired_folders`. Other than
      the default, it lets several predictions share a target.
    target_pattern: as above.

  Returns:
    By the names of the predicted files `PROTOCOL_psnr` in decibels (infinity
    for equal pictures) and `PROTOCOL_ssim`.

  Raises:
    FileNotFoundError: nothing is there.
    PairingError: files have no partner or the name of another; or pictures
      are damaged, transparent, differ in size, are grey against colour, or do
      not fit a protocol. All of them are named.
    ValueError: an unknown protocol, a file against a folder, grey pairs beside
      pairs in colour without `protocols`, or as of `pairs.paired_folders`.
  """
  if protocols is not None:
    scores.require_protocols(protocols)
  paired = _paired(predicted, target, predicted_pattern, target_pattern)
  rows, problems = {}, []
  for one, other in tqdm.tqdm(paired, unit='picture', disable=None):
    try:
      rows[one.name] = _score(one, other, protocols)
    except ValueError as error:
      problems.append(str(error))
  if problems:
    raise PairingError('; '.join(problems), problems)
  kinds = {tuple(row): name for name, row in rows.items()}
  if len(kinds) > 1:
    raise ValueError(
      f'{" and ".join(kinds.values())} are grey and in colour; name protocols '
      'that suit both'
    )
  return rows


def write_csv(
  path: str | os.PathLike[str], rows: Mapping[str, Mapping[str, float]]
) -> None:
  """Writes scores, whole or not at all.

  Args:
    path: of the file; one that is there is replaced.
    rows: scores by name, of the same fields.

  Raises:
    OSError: the file cannot be written.
  """
  path = pathlib.Path(path)
  if path.exists() and not path.is_file():
    raise OSError(f'{path} is no regular file')
  fields = next(iter(rows.values()))
  # Names of files need not be Unicode; they come out as they are.
  with (
    written_whole(path) as partial,
    partial.open(
      'w', encoding='utf-8', errors='surrogateescape', newline=''
    ) as file,
  ):
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['picture', *fields])
    for name, row in rows.items():
      writer.writerow([name, *(row[field] for field in fields)])


def main(arguments: Sequence[str] | None = None) -> None:
  """Scores files; see the module, or `--help`."""
  described = [scores.describe(name) for name in metrics.PROTOCOLS]
  parser = argparse.ArgumentParser(
    prog='python -m common.score',
    description=__doc__,
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('predicted', help='restored picture, or folder')
  parser.add_argument('target', help='clean picture, or folder')
  parser.add_argument(
    '--list',
    action='version',
    version='\n\n'.join([*described, _LAST_LINE]),
    help='say what each protocol means, and exit',
  )
  parser.add_argument(
    '--protocols',
    type=_protocols,
    metavar='A,B',
    help=f'any of {", ".join(metrics.PROTOCOLS)}; without it '
    f'{", ".join(PROTOCOLS)}, of which grey pictures get trnr_rgb',
  )
  for side in ('predicted', 'target'):
    parser.add_argument(
      f'--{side}_pattern',
      default=pairing.SAME_NAME,
      metavar='PATTERN',
      help='regular expression of whole file names, whose first group pairs '
      'them',
    )
  parser.add_argument(
    '--csv', metavar='FILE', help='for all scores in full, the mean last'
  )
  options = parser.parse_args(arguments)
  compilation_cache.enable()
  try:
    rows = score_files(
      options.predicted,
      options.target,
      protocols=options.protocols,
      predicted_pattern=options.predicted_pattern,
      target_pattern=options.target_pattern,
    )
    mean = scores.mean_of(rows)
    console.show(scores.table({**rows, f'mean of {len(rows)}': mean}))
    if options.csv:
      write_csv(options.csv, {**rows, 'mean': mean})
  except PairingError as error:
    for problem in error.problems:
      print(f'error: {problem}', file=sys.stderr)
    parser.exit(1)
  except (OSError, ValueError) as error:
    parser.exit(1, f'error: {error}\n')


def _protocols(text: str) -> list[str]:
  names = text.split(',')
  try:
    scores.require_protocols(names)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from error
  return [*dict.fromkeys(names)]


def _paired(
  predicted: str | os.PathLike[str],
  target: str | os.PathLike[str],
  predicted_pattern: str,
  target_pattern: str,
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Files to compare."""
  paths = pathlib.Path(predicted), pathlib.Path(target)
  for path in paths:
    if not path.exists():
      raise FileNotFoundError(f'{path} is not there')
  if paths[0].is_dir() != paths[1].is_dir():
    folder, file = paths if paths[0].is_dir() else paths[::-1]
    raise ValueError(
      f'{folder} is a folder and {file} a file; give two of a kind'
    )
  if not paths[0].is_dir():
    return [paths]
  problems: list[str] = []
  columns: tuple[Sequence[pathlib.Path], Sequence[pathlib.Path]]
  try:
    columns = pairing.match_folders(
      *paths, input_pattern=predicted_pattern, target_pattern=target_pattern
    )
  except PairingError as error:
    columns = error.paired
    problems += error.problems
  paired = [*zip(*columns, strict=True)]
  by_name = collections.defaultdict(list)
  for one, other in paired:
    by_default = predicted_pattern == pairing.SAME_NAME
    by_name[other if by_default else one.stem].append(str(one))
  problems += [
    f'{" and ".join(files)} have the same name'
    for files in by_name.values()
    if len(files) > 1
  ]
  if problems:
    raise PairingError('; '.join(problems), problems)
  return paired


def _score(
  predicted: pathlib.Path,
  target: pathlib.Path,
  protocols: Sequence[str] | None,
) -> dict[str, float]:
  """Scores one pair; errors name the files."""
  pair = picture_files.read(predicted), picture_files.read(target)
  both = f'{predicted} and {target}'
  for path, picture in zip((predicted, target), pair, strict=True):
    if picture.alpha is not None and picture.alpha.min() < 1:
      raise ValueError(f'{path} has transparent pixels, which have no score')
  if pair[0].grey != pair[1].grey:
    kinds = ' and '.join('grey' if x.grey else 'RGB' for x in pair)
    raise ValueError(f'{both} are {kinds}; convert one of them')
  sizes = [' x '.join(map(str, x.pixels.shape[:2])) for x in pair]
  if sizes[0] != sizes[1]:
    raise ValueError(
      f'{both} have {sizes[0]} and {sizes[1]} pixels (height x width)'
    )
  grey = pair[0].grey
  of_grey = [x for x, p in metrics.PROTOCOLS.items() if p.colour == 'rgb']
  if protocols is None:
    protocols = [x for x in PROTOCOLS if not grey or x in of_grey]
  if grey and (refused := [x for x in protocols if x not in of_grey]):
    raise ValueError(
      f'{both} are grey, and {", ".join(refused)} score luma of RGB; take '
      f'{", ".join(of_grey)}'
    )
  images = [x.pixels[..., :1] if grey else x.pixels for x in pair]
  try:
    return scores.score_pair(images[0], images[1], protocols)
  except ValueError as error:
    raise ValueError(f'{both} cannot be scored: {error}') from error


if __name__ == '__main__':
  console.run(main)
