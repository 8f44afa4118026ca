"""Sources of labelled images on disk: .npz files, class folders, TFDS sets."""

import dataclasses
import functools
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.data import images
from common.data.sources import ArraySource, Example, Split


def npz_source(
  path: str | os.PathLike[str], split: Split, *, num_classes: int | None = None
) -> ArraySource:
  """Images and labels from an .npz file.

  Reads `x_train` and `y_train`, or `x_test` and `y_test`: images in 0..255,
  uint8 [n, height, width, 3] or grey uint8 [n, height, width], and integer
  labels [n]. The file may hold one split only, and may hold `class_names`.

  Args:
    path: the file.
    split: 'train' or 'test'.
    num_classes: number of classes; None takes the number of `class_names` or,
      without these, the largest label of both splits plus one.

  Returns:
    A source in memory. A process that it is sent to reads the file itself: the
    arrays would be copied into a message, which either process would keep.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, a key is missing, or an array has the
      wrong dtype, shape, length or range; names the file and the key.
  """
  image_key, label_key = f'x_{split}', f'y_{split}'
  arrays = _read_npz(path, required=(image_key, label_key))
  pixels, labels = arrays[image_key], arrays[label_key]
  is_grey = pixels.ndim == 3
  is_rgb = pixels.ndim == 4 and pixels.shape[-1] == 3
  if pixels.dtype != np.uint8 or not (is_grey or is_rgb):
    raise ValueError(
      f'{path}: {image_key} is {pixels.dtype}{list(pixels.shape)}, but must be '
      'uint8 [n, height, width, 3] or uint8 [n, height, width]'
    )
  all_labels = [arrays[key] for key in ('y_train', 'y_test') if key in arrays]
  if any(y.dtype.kind not in 'iu' or y.ndim != 1 for y in all_labels):
    raise ValueError(
      f'{path}: labels are '
      + ' and '.join(f'{y.dtype}{list(y.shape)}' for y in all_labels)
      + f', but {label_key} and its sibling must be integers [n]'
    )
  if len(pixels) != len(labels):
    raise ValueError(
      f'{path}: {image_key} has {len(pixels)} images, but {label_key} has '
      f'{len(labels)} labels'
    )
  if not pixels.size:
    raise ValueError(f'{path}: {image_key} is empty')
  class_names = arrays.get('class_names')
  if num_classes is None:
    num_classes = (
      1 + max(int(y.max(initial=0)) for y in all_labels)
      if class_names is None
      else len(class_names)
    )
  if labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(
      f'{path}: {label_key} holds labels {labels.min()}..{labels.max()}, but '
      f'for {num_classes} classes they must be in 0..{num_classes - 1}'
    )
  return _NpzSource(
    images=np.repeat(pixels[..., None], 3, axis=-1) if is_grey else pixels,
    labels=labels,
    num_classes=num_classes,
    class_names=None if class_names is None else tuple(map(str, class_names)),
    opened_by=functools.partial(
      npz_source, os.path.abspath(path), split, num_classes=num_classes
    ),
  )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _NpzSource(ArraySource):
  """What `npz_source` returns.

  Attributes:
    opened_by: opens the same file.
  """

  opened_by: Callable[[], ArraySource]

  def __reduce__(self) -> tuple[Callable[[], ArraySource], tuple[()]]:
    return self.opened_by, ()


def _read_npz(
  path: str | os.PathLike[str], required: Sequence[str]
) -> dict[str, np.ndarray]:
  """Reads the required arrays, and labels and class names that are there."""
  if not os.path.isfile(path):
    raise FileNotFoundError(f'there is no file {path}')
  if not zipfile.is_zipfile(path):
    raise ValueError(f'{path} is not an .npz file, or is truncated')
  try:
    with np.load(path, allow_pickle=False) as stored:
      if missing := [key for key in required if key not in stored]:
        raise KeyError(missing[0], sorted(stored))
      optional = {'y_train', 'y_test', 'class_names'}.intersection(stored)
      return {key: stored[key] for key in optional.union(required)}
  except KeyError as error:
    key, present = error.args
    raise ValueError(f'{path} has no array {key!r}; it has {present}') from None
  except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(
      f'{path} cannot be read as an .npz file of plain arrays: {error}'
    ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
  """Image files that are read when asked for.

  Attributes:
    paths: the file of each element.
    labels: integers [n] in 0..num_classes-1.
    class_names: in the order of the labels.
  """

  paths: tuple[pathlib.Path, ...]
  labels: np.ndarray
  class_names: tuple[str, ...]

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> Example:
    return {
      'image': images.read_rgb(self.paths[index]),
      'label': np.asarray(self.labels[index], np.int32),
    }


def folder_source(root: str | os.PathLike[str], split: Split) -> FolderSource:
  """Image files in one folder for each class.

  Reads `root/train/<class>/*` or `root/test/<class>/*` (`root/val` also names
  the test split). Labels number the class folders in sorted order. Files are
  images by their suffix (`images.SUFFIXES`); names that begin with a dot are
  passed over.

  Args:
    root: the folder of the splits.
    split: 'train' or 'test'.

  Returns:
    A source that reads each file when asked for it; a file that cannot be
    decoded raises then, it is never skipped.

  Raises:
    FileNotFoundError: there is no folder for the split.
    ValueError: there are no classes, a class is empty, or the two splits have
      different classes; names the folder.
  """
  folder = _split_folder(root, split)
  if folder is None:
    names = {'train': 'train', 'test': 'test (or val)'}
    raise FileNotFoundError(
      f'{root} has no folder {names[split]}; expected '
      f'{root}/{split}/<class>/<image files>'
    )
  class_names = _class_names(folder)
  sibling = _split_folder(root, 'test' if split == 'train' else 'train')
  if sibling is not None and _class_names(sibling) != class_names:
    differing = sorted(set(class_names) ^ set(_class_names(sibling)))
    raise ValueError(
      f'{folder} and {sibling} must have the same class folders; only one of '
      f'them has {differing}'
    )
  paths: list[pathlib.Path] = []
  labels: list[int] = []
  for label, name in enumerate(class_names):
    files = [
      path
      for path in _visible(folder / name)
      if path.suffix.lower() in images.SUFFIXES
    ]
    if not files:
      raise ValueError(f'class folder {folder / name} has no image files')
    paths += files
    labels += [label] * len(files)
  return FolderSource(tuple(paths), np.array(labels), class_names)


def _split_folder(
  root: str | os.PathLike[str], split: Split
) -> pathlib.Path | None:
  for name in ('train',) if split == 'train' else ('test', 'val'):
    folder = pathlib.Path(root, name)
    if folder.is_dir():
      return folder
  return None


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
  names = tuple(path.name for path in _visible(folder) if path.is_dir())
  if not names:
    raise ValueError(f'{folder} has no class folders')
  return names


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in folder.iterdir() if not p.name.startswith('.'))


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
  """One split of a prepared TFDS set, decoded when asked for.

  Attributes:
    name: of set and split, for error messages.
    records: dicts with `image` (an encoded file) and `label`.
    class_names: in the order of the labels.
  """

  name: str
  records: Sequence[dict[str, Any]]
  class_names: tuple[str, ...]

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)

  @property
  def labels(self) -> np.ndarray:
    """Labels of all elements, integers [n]; this reads the whole split."""
    return np.array([record['label'] for record in self.records])

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Example:
    record = self.records[index]
    name = f'{self.name}[{index}]'
    return {
      'image': images.decode_rgb(record['image'], name=name),
      'label': np.asarray(record['label'], np.int32),
    }


def tfds_source(
  name: str, split: str, *, data_dir: str | os.PathLike[str] = ''
) -> TfdsSource:
  """A TFDS image classification set that has been prepared on this machine.

  Never downloads and never uses the network. Needs no TensorFlow: the set must
  have been prepared in the array_record format, and images are decoded here.

  Args:
    name: TFDS name, such as 'cifar100'.
    split: the TFDS name of the split, such as 'train' or 'validation'.
    data_dir: where TFDS sets are kept; empty means the default of TFDS, which
      is $TFDS_DATA_DIR or ~/tensorflow_datasets.

  Returns:
    A source that reads each record when asked for it.

  Raises:
    FileNotFoundError: the set is not there in this format; says how to get it.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  where = os.fspath(data_dir) or 'the default folder of TFDS'
  try:
    builder = read_only_builder.builder_from_files(
      name, data_dir=os.fspath(data_dir) or None
    )
    records = builder.as_data_source(
      split, decoders={'image': tfds.decode.SkipDecoding()}
    )
  except (tfds.core.DatasetNotFoundError, NotImplementedError) as error:
    raise FileNotFoundError(
      f'the TFDS set {name!r} is not prepared as array_record in {where}. '
      "Prepare it once (pip install 'rsdjax[datasets]'; tfds build "
      f'{name} --file_format=array_record), or give the path of an .npz file '
      'with x_train, y_train, x_test and y_test'
    ) from error
  class_names = tuple(builder.info.features['label'].names)
  return TfdsSource(f'{name} {split}', records, class_names)
