"""What the ordinary ways of sampling draw from, and parts of other sources.

A source gives element i from its number alone; see `common.data.pipeline`.
"""

import dataclasses

import numpy as np

from common.data import pair_transforms, pairs, pipeline
from common.data.sources import Example
from trnr.patch_set import PatchSet


@dataclasses.dataclass(frozen=True, eq=False)
class PatchSource:
  """The patches of a set as pairs, clusters ignored (random patch sampling).

  Attributes:
    patch_set: the patches; with several degraded versions of each, every
      version is an element.
  """

  patch_set: PatchSet

  def __len__(self) -> int:
    return len(self.patch_set) * self._versions

  def __getitem__(self, index: int) -> Example:
    patch, version = divmod(range(len(self))[index], self._versions)
    clean = self.patch_set.clean[patch]
    if self.patch_set.degraded is None:
      return {'target': clean}
    return {'input': self.patch_set.degraded[patch, version], 'target': clean}

  @property
  def _versions(self) -> int:
    degraded = self.patch_set.degraded
    return 1 if degraded is None else degraded.shape[1]


@dataclasses.dataclass(frozen=True, eq=False)
class DistinctImages:
  """Endless batches, each of different images (RBS-I).

  To be read in order, in batches of `batch_size`.

  Differs from the reference: a batch that is larger than the source takes
  every image once and then again, where the published one gets smaller; so
  ways of sampling can be compared at the same number of patches.

  Attributes:
    source: the images.
    batch_size: of each draw.
    seed: of the draws.

  Source: Ran et al., the program (random batch sampling with putting back).
  """

  source: pipeline.RandomAccess
  batch_size: int
  seed: int

  def __len__(self) -> int:
    return 2**40 * self.batch_size

  def __getitem__(self, index: int) -> Example:
    return self.source[self.number(int(index))]

  def number(self, index: int) -> int:
    """Which image an element is."""
    step, slot = divmod(index, self.batch_size)
    turn, place = divmod(slot, len(self.source))
    rng = np.random.default_rng((self.seed, step, turn))
    return int(rng.permutation(len(self.source))[place])


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated:
  """Every element of another source several times.

  Attributes:
    source: the other source.
    count: how often.
  """

  source: pipeline.RandomAccess
  count: int

  def __len__(self) -> int:
    return self.count * len(self.source)

  def __getitem__(self, index: int) -> Example:
    return self.source[range(len(self))[index] % len(self.source)]


def in_memory(source: pairs.PairSource) -> list[Example]:
  """All elements, decoded once."""
  return [source[index] for index in range(len(source))]


@dataclasses.dataclass(frozen=True)
class AddNoise:
  """Adds noise of random strength to a clean patch.

  Attributes:
    max_sigma: upper limit of the strength, in units of 1/255.
  """

  max_sigma: float

  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns `input` and `target` as floats in [0, 1], and `sigma`."""
    sigma = rng.uniform(0, self.max_sigma) / 255
    target = example['target']
    return {
      'input': pair_transforms.add_gaussian_noise(target, sigma, rng),
      'target': np.asarray(target / 255, np.float32),
      'sigma': np.asarray(sigma, np.float32),
    }
