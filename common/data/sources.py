"""Labelled images by index: what a source is, parts of one, and digits."""

import dataclasses
from typing import Literal, Protocol

import numpy as np

# One example, and many of them stacked along a new first axis.
Example = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]
Split = Literal['train', 'test']


class Source(Protocol):
  """Random access to labelled images.

  Element i is a dict of `image` (RGB in 0..255, uint8 [height, width, 3]) and
  `label` (int32 scalar in 0..num_classes-1).
  """

  @property
  def num_classes(self) -> int:
    """Number of classes of the data set, whether in this split or not."""

  @property
  def class_names(self) -> tuple[str, ...] | None:
    """Names in the order of the labels; None if unknown."""

  @property
  def labels(self) -> np.ndarray:
    """Labels of all elements, integers [n], without decoding images."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
  """Images and labels in memory.

  Attributes:
    images: RGB in 0..255, uint8 [n, height, width, 3].
    labels: integers [n] in 0..num_classes-1.
    num_classes: number of classes.
    class_names: in the order of the labels; None if unknown.
  """

  images: np.ndarray
  labels: np.ndarray
  num_classes: int
  class_names: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int) -> Example:
    label = np.asarray(self.labels[index], np.int32)
    return {'image': self.images[index], 'label': label}


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
  """Some elements of another source.

  Attributes:
    source: the other source.
    indices: which of its elements, integers [n].
  """

  source: Source
  indices: np.ndarray

  @property
  def num_classes(self) -> int:
    """Number of classes of the whole data set."""
    return self.source.num_classes

  @property
  def class_names(self) -> tuple[str, ...] | None:
    """Class names of the whole data set."""
    return self.source.class_names

  @property
  def labels(self) -> np.ndarray:
    """Labels of the chosen elements, integers [n]."""
    return self.source.labels[self.indices]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> Example:
    return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True, eq=False)
class Numbered:
  """Examples of another source with their `index`, an int32 scalar.

  Attributes:
    source: the other source.
  """

  source: Source

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    return {**self.source[index], 'index': np.asarray(index, np.int32)}


def class_balanced_order(labels: np.ndarray) -> np.ndarray:
  """A fixed random order whose every beginning is balanced over classes.

  It takes one random element of each class in turn (classes that have run out
  are passed over), so that the first n elements hold each of c classes n / c
  times, rounded down or up. Depends on the labels alone.

  Args:
    labels: integers [n].

  Returns:
    A permutation of 0..n-1, integers [n].
  """
  # NumPy promises never to change the stream of this old generator.
  shuffled = np.random.RandomState(0).permutation(len(labels))
  # Stable sorts keep the random order within a class, then within a turn.
  by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
  sorted_labels = labels[by_class]
  turn = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
  return by_class[np.argsort(turn, kind='stable')]


def first_examples(source: Source, num_examples: int) -> Source:
  """The first examples of a source in its `class_balanced_order`.

  Args:
    source: any source.
    num_examples: how many, 1..len(source).

  Returns:
    A source of `num_examples` elements; the smaller of two such sources is
    contained in the larger.

  Raises:
    ValueError: the source does not have that many.
  """
  if not 1 <= num_examples <= len(source):
    raise ValueError(
      f'num_examples = {num_examples} must be in 1..{len(source)}, the size '
      'of the split'
    )
  order = class_balanced_order(source.labels)
  return Subset(source, order[:num_examples])


def digits_source(split: Split) -> ArraySource:
  """Handwritten digits of 8 x 8 pixels that come with scikit-learn.

  1,797 real scans; their 17 grey levels are spread over 0..255. The set has no
  official split. Here the test split is the first 600 of the fixed
  `class_balanced_order` (60 of each digit), the training split the other
  1,197.

  Args:
    split: 'train' or 'test'.

  Returns:
    A source of ten classes, in memory.

  Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
  Digits", UCI Machine Learning Repository, 1998 (its test part).
  """
  import sklearn.datasets

  scans = sklearn.datasets.load_digits()
  order = class_balanced_order(scans.target)
  chosen = np.sort(order[:600] if split == 'test' else order[600:])
  grey = np.rint(scans.images[chosen] * (255 / 16)).astype(np.uint8)
  return ArraySource(
    images=np.repeat(grey[..., None], 3, axis=-1),
    labels=scans.target[chosen],
    num_classes=10,
    class_names=tuple('0123456789'),
  )
