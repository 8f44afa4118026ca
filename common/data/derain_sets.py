"""Sets of rainy and clean images, opened by name.

Each published set lies in a folder of its own, as below; SPLIT is train or
test. `pairs` are two folders of yours, `photos` come with Python packages.

  rain200l, rain200h   SPLIT/rain/X2 or SPLIT/rain: norain-Nx2.png
                       SPLIT/norain: norain-N.png
  rain100l, rain100h   the same folders: rain-N.png, N.png or norain-Nx2.png
  rain800              the same folders, or SPLIT/N.jpg, the clean image left
  did                  SPLIT/N.jpg, the rainy image left
  ddn, rain1400        SPLIT/rain: N_1.jpg .. N_14.jpg, SPLIT/norain: N.jpg
  spa, train           real_world/SCENE/CLIP: ..._X_Y.png
                       real_world_gt/SCENE: ..._X_Y.png
  spa, test            real_test_1000/rain: N.png, real_test_1000/gt: Ngt.png
"""

import functools
import inspect
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from common.data import images, pairing, pairs, photos, rain
from common.data.pairs import PairSource
from common.data.sources import Split


def published_set(
  name: str, folder: str | os.PathLike[str], *, split: Split | None
) -> PairSource:
  """Opens a published set.

  Args:
    name: one of `LAYOUTS`.
    folder: of the set, laid out as this module says.
    split: 'train' or 'test'; None if the folder holds one split alone, without
      folders of that name in it.

  Returns:
    A source of pairs, which reads files when asked for them.

  Raises:
    FileNotFoundError: the folder is laid out in another way; says how it
      should be.
    ValueError: the name or the split is unknown, or as of
      `pairs.paired_folders` and `pairs.side_by_side_folder`.

  Differs from the reference: DID is always cut into its halves. The newest
  published loader does so only if the folder is called Rain1200, and otherwise
  learns to give the rainy picture back.

  Source: specification of CoIC's data; Ran et al., ICLR 2024 (its loaders).
  """
  if name not in LAYOUTS:
    raise ValueError(f'the set {name!r} must be one of {[*LAYOUTS]}')
  _require_split(split)
  layouts = [x for x in LAYOUTS[name] if x.split in (None, split)]
  if not layouts:
    raise ValueError(f'{name} has one layout for each split; give the split')
  expected = []
  for layout in layouts:
    folders = [_below(folder, part, split) for part in layout.folders]
    if layout.fits(*folders):
      return layout.open(*folders)
    expected.append(' and '.join(str(path) for path in folders))
  raise FileNotFoundError(
    f'{name} expects images in {", or in ".join(expected)}'
  )


def own_pairs(
  folder: str | os.PathLike[str],
  *,
  split: Split | None,
  input_folder: str = '{split}/rain',
  target_folder: str = '{split}/norain',
  input_pattern: str = pairing.SAME_NAME,
  target_pattern: str = pairing.SAME_NAME,
) -> PairSource:
  """Opens two folders of any names.

  Args:
    folder: that both lie below.
    split: takes the place of {split} in their names; None drops it.
    input_folder: of the rainy images.
    target_folder: of the clean images.
    input_pattern: see `pairs.paired_folders`.
    target_pattern: see `pairs.paired_folders`.

  Returns:
    A source of pairs, which reads files when asked for them.

  Raises:
    FileNotFoundError: a folder is absent.
    ValueError: as of `pairs.paired_folders`.
  """
  _require_split(split)
  return pairs.paired_folders(
    _below(folder, input_folder, split),
    _below(folder, target_folder, split),
    input_pattern=input_pattern,
    target_pattern=target_pattern,
  )


def rainy_photos(
  *,
  split: Split | None,
  preset: str = 'light',
  rain_seed: int = 0,
  variants: int = 1,
) -> PairSource:
  """Embedded photos with rendered rain, in memory.

  Args:
    split: see `photos.embedded_photos`.
    preset: look of the rain, one of `rain.PRESETS`.
    rain_seed: of the rain; the test split has other rain than the rest.
    variants: rainy versions of each photo.

  Returns:
    A source of pairs.

  Raises:
    ValueError: an unknown preset or split, or no variants.
  """
  if preset not in rain.PRESETS:
    raise ValueError(f'preset {preset!r} must be one of {[*rain.PRESETS]}')
  rainy = rain.WithRain(
    photos.clean_photos(split),
    rain.PRESETS[preset],
    rain_seed + (split == 'test'),
    variants,
  )
  return pairs.in_memory(rainy)


def open_set(name: str, *, split: Split | None, **options: Any) -> PairSource:
  """Opens any set by its name, as configs do.

  Args:
    name: one of `LAYOUTS`, 'pairs' or 'photos'.
    split: 'train' or 'test', or None as the functions below have it.
    **options: of `published_set`, `own_pairs` or `rainy_photos`.

  Returns:
    A source of pairs.

  Raises:
    FileNotFoundError: a folder is absent.
    ValueError: the name is unknown, an option is unknown or missing, or as of
      the three functions.
  """
  openers: dict[str, Callable[..., PairSource]] = {
    **{key: functools.partial(published_set, key) for key in LAYOUTS},
    'pairs': own_pairs,
    'photos': rainy_photos,
  }
  if name not in openers:
    raise ValueError(f'the set {name!r} must be one of {[*openers]}')
  signature = inspect.signature(openers[name])
  try:
    signature.bind(split=split, **options)
  except TypeError as error:
    valid = [key for key in signature.parameters if key != 'split']
    raise ValueError(f'{name}: {error}; the options are {valid}') from error
  return openers[name](split=split, **options)


class _Layout(NamedTuple):
  """One way to lay out a set.

  Attributes:
    open: makes a source of the folders.
    folders: below that of the set.
    split: the only split that it is for, or None.
  """

  open: Callable[..., PairSource]
  folders: tuple[str, ...]
  split: Split | None = None

  def fits(self, *folders: pathlib.Path) -> bool:
    """Whether all folders are there; one alone must hold files itself."""
    if not all(folder.is_dir() for folder in folders):
      return False
    return len(folders) > 1 or any(
      path.suffix.lower() in images.SUFFIXES for path in folders[0].iterdir()
    )


def _paired(input_pattern: str, target_pattern: str) -> Callable:
  return functools.partial(
    pairs.paired_folders,
    input_pattern=input_pattern,
    target_pattern=target_pattern,
  )


def _scene_pairs(
  input_folder: pathlib.Path, target_folder: pathlib.Path
) -> pairs.FilePairs:
  """Pairs a tree of scenes and clips with one of scenes.

  The key of a pair is its scene, and the position of the cut at the end of the
  file names. Clean images without rainy ones do no harm.
  """
  position = re.compile(r'.*_(\d+)_(\d+)\.\w+')
  unfit = []

  def keyed(paths: Iterator[str], scene_part: int) -> Iterator[tuple]:
    for path in paths:
      match = position.fullmatch(path)
      if match is None:
        unfit.append(f'{path} does not end in _X_Y and a suffix')
      else:
        scene = path.split(os.sep)[scene_part]
        yield (scene, int(match[1]), int(match[2])), path

  targets: dict[tuple, str] = {}
  for key, path in keyed(_files(target_folder, depth=1), -2):
    if targets.setdefault(key, path) != path:
      unfit.append(f'{targets[key]} and {path} are clean images of one place')
  inputs, partners, alone = [], [], []
  for key, path in keyed(_files(input_folder, depth=2), -3):
    if key in targets:
      inputs.append(path)
      partners.append(targets[key])
    else:
      alone.append(path)
  summaries = unfit[:1]
  if alone:
    summaries.append(
      f'{len(alone)} files have no partner in {target_folder}, the first is '
      f'{alone[0]}'
    )
  if summaries:
    unfit += [f'{path} has no partner in {target_folder}' for path in alone]
    raise pairing.PairingError('; '.join(summaries), unfit, (inputs, partners))
  if not inputs:
    raise ValueError(f'{input_folder} has no images in folders of clips')
  return pairs.FilePairs(tuple(inputs), tuple(partners))


def _files(folder: str | os.PathLike[str], *, depth: int) -> Iterator[str]:
  """Image files so many folders below, in order, hidden ones passed over.

  As strings: there are hundreds of thousands, in each process that loads data.
  """
  with os.scandir(folder) as entries:
    ordered = sorted(entries, key=lambda entry: entry.name)
  for entry in ordered:
    if entry.name.startswith('.'):
      continue
    suffix = os.path.splitext(entry.name)[1].lower()
    if depth and entry.is_dir():
      yield from _files(entry.path, depth=depth - 1)
    elif not depth and suffix in images.SUFFIXES and entry.is_file():
      yield entry.path


def _require_split(split: Split | None) -> None:
  if split not in ('train', 'test', None):
    raise ValueError(f"split = {split!r} must be 'train', 'test' or None")


def _below(
  folder: str | os.PathLike[str], part: str, split: Split | None
) -> pathlib.Path:
  return pathlib.Path(folder, part.replace('{split}', split or '.'))


# The number of the scene, and after an x that of the rain.
_NUMBERED = r'\D*(\d+)(?:x\d+)?\.\w+'
_TWO_FOLDERS = (
  # The published programs look in either; where both are, X2 has the images.
  _Layout(_paired(_NUMBERED, _NUMBERED), ('{split}/rain/X2', '{split}/norain')),
  _Layout(_paired(_NUMBERED, _NUMBERED), ('{split}/rain', '{split}/norain')),
)
_FOURTEEN_RAINS = (
  _Layout(
    _paired(r'(\d+)_\d+\.\w+', r'(\d+)\.\w+'),
    ('{split}/rain', '{split}/norain'),
  ),
)


def _halves(input_half: Literal['left', 'right']) -> _Layout:
  return _Layout(
    functools.partial(pairs.side_by_side_folder, input_half=input_half),
    ('{split}',),
  )


# The first layout that fits counts.
LAYOUTS: dict[str, tuple[_Layout, ...]] = {
  'rain200l': _TWO_FOLDERS,
  'rain200h': _TWO_FOLDERS,
  'rain100l': _TWO_FOLDERS,
  'rain100h': _TWO_FOLDERS,
  'rain800': (*_TWO_FOLDERS, _halves('right')),
  'did': (_halves('left'),),
  'ddn': _FOURTEEN_RAINS,
  'rain1400': _FOURTEEN_RAINS,
  'spa': (
    _Layout(_scene_pairs, ('real_world', 'real_world_gt'), 'train'),
    _Layout(
      _paired(r'(\d+)\.\w+', r'(\d+)gt\.\w+'),
      ('real_test_1000/rain', 'real_test_1000/gt'),
      'test',
    ),
  ),
}
