"""Several sets of pairs in one stream, by their sizes or by weights."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from common.data.pairs import PairSource
from common.data.sources import Example


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
  """Sets one after the other.

  Attributes:
    sets: sources of pairs by name.
    min_size: height and width in pixels that every image must have, such as
      those of a crop; a smaller one is an error that names it.

  Raises:
    ValueError: there are no sets; or, from an element, an image is too small.
  """

  sets: Mapping[str, PairSource]
  min_size: int = 0

  def __post_init__(self) -> None:
    if not self.sets or not all(self.sizes.values()):
      raise ValueError(f'sets of {self.sizes} pairs: need one, and none empty')

  @property
  def sizes(self) -> dict[str, int]:
    """Number of pairs of each set."""
    return {name: len(source) for name, source in self.sets.items()}

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the pairs, as set/name."""
    return tuple(
      f'{set_name}/{name}'
      for set_name, source in self.sets.items()
      for name in source.names
    )

  def __len__(self) -> int:
    return sum(self.sizes.values())

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    ends = [*itertools.accumulate(self.sizes.values())]
    number = bisect.bisect_right(ends, index)
    name, source = [*self.sets.items()][number]
    index -= ends[number] - len(source)
    example = source[index]
    height, width = example['target'].shape[:2]
    if min(height, width) < self.min_size:
      raise ValueError(
        f'{name}/{source.names[index]} of {height} x {width} pixels is smaller '
        f'than {self.min_size} x {self.min_size}'
      )
    return example


@dataclasses.dataclass(frozen=True, eq=False)
class Epochs:
  """Endless epochs over a mixture, each in an order of its own.

  Every epoch has `counts` pairs of each set, drawn without replacement. If a
  set has fewer, all of its pairs come equally often, and the drawn ones once
  more. Element i follows from the seed and i alone. To be read in order:
  `pipeline.train_iterator(epochs, ..., shuffle=False)`.

  Attributes:
    mixture: the sets.
    counts: pairs of each set in an epoch, in the order of the sets.
    seed: of draws and orders, >= 0.
    batch_size: an epoch is filled up to whole batches of this size by pairs
      from its beginning.
    redraw: draw other pairs in each epoch; else only the order changes.

  Raises:
    ValueError: counts are not one for each set, negative, or all zero.
  """

  mixture: Mixture
  counts: tuple[int, ...]
  seed: int
  batch_size: int = 1
  redraw: bool = True

  def __post_init__(self) -> None:
    sizes = self.mixture.sizes
    if len(self.counts) != len(sizes) or min(self.counts) < 0:
      raise ValueError(f'counts {self.counts} must be one for each of {sizes}')
    if not any(self.counts) or self.batch_size < 1:
      raise ValueError(
        f'counts {self.counts} and batch_size = {self.batch_size} must be '
        'positive'
      )

  @property
  def steps_per_epoch(self) -> int:
    """Number of batches in an epoch."""
    return -(-sum(self.counts) // self.batch_size)

  def __len__(self) -> int:
    return 2**40 * self.batch_size

  def __getitem__(self, index: int) -> Example:
    return self.mixture[self._number(index)]

  def name(self, index: int) -> str:
    """Name of an element, as set/name."""
    return self.mixture.names[self._number(index)]

  def _number(self, index: int) -> int:
    epoch, place = divmod(int(index), self.steps_per_epoch * self.batch_size)
    return int(self.order(epoch)[place])

  def order(self, epoch: int) -> np.ndarray:
    """Elements of the mixture that an epoch shows, integers [n], in order."""
    return _order(
      tuple(self.mixture.sizes.values()),
      self.counts,
      self.steps_per_epoch * self.batch_size,
      self.seed,
      epoch,
      epoch if self.redraw else 0,
    )


def mix(
  sets: Mapping[str, PairSource],
  *,
  seed: int,
  weights: Mapping[str, float] | None = None,
  num_examples: int | None = None,
  batch_size: int = 1,
  redraw: bool = True,
  min_size: int = 0,
) -> Epochs:
  """Mixes sets by their sizes, or by weights.

  Args:
    sets: sources of pairs by name.
    seed: see `Epochs`, as for `batch_size` and `redraw`.
    weights: share of each set in an epoch, relative to the sum; None takes the
      sizes, so that an epoch has every pair once.
    num_examples: pairs in an epoch; None takes the sum of the sizes.
    batch_size: of the training.
    redraw: whether every epoch draws anew.
    min_size: see `Mixture`.

  Returns:
    Endless epochs, to be read with `shuffle=False`.

  Raises:
    ValueError: a weight is missing, of no set or negative, or as of `Epochs`.
  """
  mixture = Mixture(sets, min_size)
  sizes = mixture.sizes
  weights = sizes if weights is None else weights
  if weights.keys() != sizes.keys():
    raise ValueError(f'weights of {[*weights]} must be of the sets {[*sizes]}')
  counts = proportional_counts(
    [weights[name] for name in sizes],
    len(mixture) if num_examples is None else num_examples,
  )
  return Epochs(mixture, counts, seed, batch_size, redraw)


def balanced_with(
  real: Mapping[str, PairSource],
  synthetic: Mapping[str, PairSource],
  *,
  seed: int,
  batch_size: int = 1,
  redraw: bool = True,
  min_size: int = 0,
) -> Epochs:
  """All synthetic pairs, and as many real ones, in every epoch.

  Args:
    real: sources by name, drawn from in proportion to their sizes.
    synthetic: sources by other names.
    seed: see `Epochs`, as for `batch_size`.
    batch_size: of the training.
    redraw: draw other real pairs in each epoch, as the published program does
      for DRSformer; its other networks see one draw throughout.
    min_size: see `Mixture`.

  Returns:
    Endless epochs, to be read with `shuffle=False`.

  Raises:
    ValueError: a name is both of a real and of a synthetic set, or there are
      no real or no synthetic pairs.

  Source: Ran et al., ICLR 2024, the program (training with SPA-Data).
  """
  if both := real.keys() & synthetic.keys():
    raise ValueError(f'{sorted(both)} are names of real and synthetic sets')
  synthetic_counts = tuple(Mixture(synthetic).sizes.values())
  real_counts = proportional_counts(
    [*Mixture(real).sizes.values()], sum(synthetic_counts)
  )
  mixture = Mixture({**synthetic, **real}, min_size)
  counts = synthetic_counts + real_counts
  return Epochs(mixture, counts, seed, batch_size, redraw)


def proportional_counts(
  weights: Sequence[float], total: int
) -> tuple[int, ...]:
  """Whole numbers in proportion to weights, by largest remainder.

  Args:
    weights: not negative, and not all zero.
    total: sum of the result, >= 0.

  Returns:
    As many numbers as weights, each less than 1 from its exact share.

  Raises:
    ValueError: a weight is negative or not finite, or all are zero.
  """
  shares = np.asarray(weights, np.float64)
  if not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
    raise ValueError(f'weights {[*weights]} must be positive')
  exact = shares / shares.sum() * total
  # Whole shares stay whole in spite of rounding errors.
  counts = np.floor(exact + 1e-9).astype(np.int64)
  order = np.argsort(counts - exact, kind='stable')
  counts[order[: total - counts.sum()]] += 1
  return tuple(counts.tolist())


# The elements of an epoch are asked for one by one, by several threads, and
# near its end by some of them for the next epoch.
@functools.lru_cache(maxsize=4)
def _order(
  sizes: tuple[int, ...],
  counts: tuple[int, ...],
  length: int,
  seed: int,
  epoch: int,
  draw: int,
) -> np.ndarray:
  """An epoch of the draw of that number, filled up or cut to a length."""
  rng = np.random.default_rng((seed, 0, draw))
  drawn = []
  for start, size, count in zip(
    itertools.accumulate(sizes, initial=0), sizes, counts, strict=False
  ):
    turns, rest = divmod(count, size)
    once_more = rng.choice(size, rest, replace=False)
    drawn += [start + np.tile(np.arange(size), turns), start + once_more]
  order = np.random.default_rng((seed, 1, epoch)).permutation(
    np.concatenate(drawn)
  )
  return np.resize(order, length)
