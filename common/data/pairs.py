"""Sources of degraded and clean images of the same scene, or of clean ones.

Element i of a source is a dict of `input` (degraded) and `target` (clean), both
uint8 [height, width, channels] of one size; clean sources have `target` only.
`names` says what element i is, in error messages and reports.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from common.data import images, pairing
from common.data.sources import Example


class PairSource(Protocol):
  """Random access to pairs, and their names."""

  @property
  def names(self) -> tuple[str, ...]:
    """One name for each element."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayPairs:
  """Pairs in memory; images may differ in size from pair to pair.

  Attributes:
    inputs: degraded images, uint8 [height, width, channels] each.
    targets: clean images of the same shapes.
    names: one for each pair.

  Raises:
    ValueError: counts differ, an image is of another kind, or a pair has two
      shapes.
  """

  inputs: Sequence[np.ndarray]
  targets: Sequence[np.ndarray]
  names: tuple[str, ...]

  def __post_init__(self) -> None:
    _require_as_many(self.names, inputs=self.inputs, targets=self.targets)
    for index, name in enumerate(self.names):
      _require_uint8(self[index], name=name)
      _require_same_size(self[index], name=name)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    return {'input': self.inputs[index], 'target': self.targets[index]}


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
  """Some pairs in a row of another source.

  Attributes:
    source: the other source.
    numbers: of the pairs there.
  """

  source: PairSource
  numbers: range

  @property
  def names(self) -> tuple[str, ...]:
    """Their names."""
    names = self.source.names
    return tuple(names[number] for number in self.numbers)

  def __len__(self) -> int:
    return len(self.numbers)

  def __getitem__(self, index: int) -> Example:
    return self.source[self.numbers[index]]


def first(source: PairSource, count: int) -> PairSource:
  """The first pairs of a source, at most `count`; 0 takes all."""
  return Part(source, range(min(count, len(source)))) if count else source


def in_memory(source: PairSource) -> ArrayPairs:
  """All pairs of a source, decoded once."""
  examples = [source[index] for index in range(len(source))]
  return ArrayPairs(
    [example['input'] for example in examples],
    [example['target'] for example in examples],
    source.names,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class FilePairs:
  """Pairs of image files that are read when asked for.

  Attributes:
    inputs: files of the degraded images.
    targets: files of the clean images; one may serve several inputs.
  """

  inputs: tuple[str | os.PathLike[str], ...]
  targets: tuple[str | os.PathLike[str], ...]

  @property
  def names(self) -> tuple[str, ...]:
    """Input file names without their folder."""
    return tuple(os.path.basename(path) for path in self.inputs)

  def __len__(self) -> int:
    return len(self.inputs)

  def __getitem__(self, index: int) -> Example:
    paths = self.inputs[index], self.targets[index]
    degraded, clean = (images.read_rgb(path) for path in paths)
    example = {'input': degraded, 'target': clean}
    _require_same_size(example, name=f'{paths[0]} and {paths[1]}')
    return example


def paired_folders(
  input_folder: str | os.PathLike[str],
  target_folder: str | os.PathLike[str],
  *,
  input_pattern: str = pairing.SAME_NAME,
  target_pattern: str = pairing.SAME_NAME,
) -> FilePairs:
  r"""Degraded images in one folder, clean ones in another.

  Files are images by their suffix, hidden ones are passed over. A pattern is a
  regular expression for a whole file name; its first group is the key that the
  two files of a pair share. A key of digits counts as its number, so that '1'
  finds '001'. Any number of inputs may share a target. The defaults pair files
  of the same name, whatever their suffix. Other layouts:

  - rain-001.png, norain-001.png: `r'rain-(\d+)\.png'`, `r'norain-(\d+)\.png'`;
  - 3_1.jpg .. 3_14.jpg, 3.jpg: `r'(\d+)_\d+\.jpg'`, `r'(\d+)\.jpg'`.

  Args:
    input_folder: the degraded images.
    target_folder: the clean images; may be the same folder.
    input_pattern: of the file names there. With one folder for both, each
      file must fit exactly one of the two patterns.
    target_pattern: as above.

  Returns:
    A source in the order of the keys (numbers before words), then of the input
    names, which reads files when asked for them.

  Raises:
    FileNotFoundError: a folder is absent.
    pairing.PairingError: a file does not fit its pattern, or has no partner;
      two targets have the same key.
    ValueError: a folder has no images; a pattern is none or has no group; or,
      from the source, an image is damaged or a pair has two sizes.
  """
  return FilePairs(
    *pairing.match_folders(
      input_folder,
      target_folder,
      input_pattern=input_pattern,
      target_pattern=target_pattern,
    )
  )


@dataclasses.dataclass(frozen=True, eq=False)
class SideBySide:
  """Files that hold both images of a pair, read when asked for.

  Attributes:
    paths: the files.
    input_half: which half is the degraded image.
  """

  paths: tuple[pathlib.Path, ...]
  input_half: Literal['left', 'right']

  @property
  def names(self) -> tuple[str, ...]:
    """File names without their folder."""
    return tuple(path.name for path in self.paths)

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> Example:
    path = self.paths[index]
    image = images.read_rgb(path)
    if image.shape[1] % 2:
      raise ValueError(
        f'{path} is {image.shape[1]} pixels wide; two equal halves need an '
        'even width'
      )
    halves = np.split(image, 2, axis=1)
    degraded, clean = halves if self.input_half == 'left' else halves[::-1]
    return {'input': degraded, 'target': clean}


def side_by_side_folder(
  folder: str | os.PathLike[str], *, input_half: Literal['left', 'right']
) -> SideBySide:
  """Files with the degraded image in one half and the clean one in the other.

  Args:
    folder: files are images by their suffix, hidden ones are passed over.
    input_half: the half of the degraded image: 'left' for DID, 'right' for
      Rain800 as published.

  Returns:
    A source in the natural order of the names (2 before 10).

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it has no images, `input_half` is neither, or, from the
      source, an image is damaged or has an odd width.
  """
  if input_half not in ('left', 'right'):
    raise ValueError(f"input_half = {input_half!r} must be 'left' or 'right'")
  return SideBySide(tuple(pairing.image_files(folder)), input_half)


@dataclasses.dataclass(frozen=True, eq=False)
class CleanFiles:
  """Clean images alone, read when asked for; elements have `target` only.

  Attributes:
    paths: the files.
    grey: whether to give one channel instead of RGB.
  """

  paths: tuple[pathlib.Path, ...]
  grey: bool = False

  @property
  def names(self) -> tuple[str, ...]:
    """File names without their folder."""
    return tuple(path.name for path in self.paths)

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> Example:
    image = images.read_rgb(self.paths[index])
    return {'target': _to_grey(image) if self.grey else image}


def clean_folder(
  folder: str | os.PathLike[str], *, grey: bool = False
) -> CleanFiles:
  """Clean images, to which the program adds the degradation itself.

  Args:
    folder: files are images by their suffix, hidden ones are passed over.
    grey: give uint8 [height, width, 1]: the luma 0.299 R + 0.587 G + 0.114 B,
      rounded, which leaves grey files as they are. Else RGB.

  Returns:
    A source of `target` in the natural order of the names (2 before 10).

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it has no images, or, from the source, one is damaged.
  """
  return CleanFiles(tuple(pairing.image_files(folder)), grey)


@dataclasses.dataclass(frozen=True, eq=False)
class CleanArrays:
  """Clean images in memory; elements have `target` only.

  Attributes:
    targets: uint8 [height, width, channels] each.
    names: one for each image.

  Raises:
    ValueError: as of `ArrayPairs`.
  """

  targets: Sequence[np.ndarray]
  names: tuple[str, ...]

  def __post_init__(self) -> None:
    _require_as_many(self.names, targets=self.targets)
    for index, name in enumerate(self.names):
      _require_uint8(self[index], name=name)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    return {'target': self.targets[index]}


def _require_as_many(names: tuple[str, ...], **arrays: Sequence) -> None:
  for key, values in arrays.items():
    if len(values) != len(names):
      raise ValueError(
        f'{len(values)} {key} and {len(names)} names must be equally many'
      )


def _require_uint8(example: Example, *, name: str) -> None:
  for key, image in example.items():
    if image.dtype != np.uint8 or image.ndim != 3:
      raise ValueError(
        f'{name}: {key} {image.dtype}{list(image.shape)} must be uint8 '
        '[height, width, channels]'
      )


def _require_same_size(example: Example, *, name: str) -> None:
  degraded, clean = example['input'].shape, example['target'].shape
  if degraded != clean:
    raise ValueError(
      f'{name}: input {list(degraded)} and target {list(clean)} must have the '
      'same [height, width, channels]'
    )


def _to_grey(image: np.ndarray) -> np.ndarray:
  """Rounded luma [h, w, 1] of RGB [h, w, 3], both uint8, in integers."""
  weighted = image.astype(np.int32) @ np.array((299, 587, 114), np.int32)
  return ((weighted + 500) // 1000).astype(np.uint8)[..., None]
