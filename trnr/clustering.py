"""Histograms, their divergence, and online clustering by it."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np

_LOGGER = logging.getLogger(__name__)

BINS = 51
GREY_HISTOGRAMS = ('patch', 'published')
_BIN_WIDTH = 5
_SMOOTHING = 1e-5  # Added to counts, not to shares.
_STEP = 0.05  # Share of the new patch when a centre moves.
_LOG_EVERY = 2000
_AT_ONCE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
  """What `cluster_patches` finds.

  Attributes:
    members: indices of the patches of each cluster in joining order; clusters
      in the order of their foundation.
    centres: float64 [clusters, size, size, c].
  """

  members: list[np.ndarray]
  centres: np.ndarray

  def labels(self, count: int) -> np.ndarray:
    """Cluster of each of `count` patches, integers [count]."""
    labels = np.full(count, -1)
    for label, indices in enumerate(self.members):
      labels[indices] = label
    return labels


def histograms(
  patches: Sequence[np.ndarray] | np.ndarray,
  *,
  joint: bool = False,
  grey: Literal['patch', 'published'] = 'patch',
) -> np.ndarray:
  """Counts of intensities in bins of five.

  Args:
    patches: values in 0..255, uint8 or float, n times [h, w, c].
    joint: one histogram over all channels, not one for each.
    grey: of patches with one channel, 'patch' counts all pixels; 'published'
      counts the first three columns, each by itself, which is what the
      published program does.

  Returns:
    Float64 [n, channels * 51], or [n, 51] of joint ones.

  Source: Ran et al., the program.
  """
  # A few patches at a time stay in the cache, and 64-bit numbers of all the
  # pixels of a large set would not fit into memory.
  return np.concatenate(
    [
      _histograms(np.asarray(patches[start : start + _AT_ONCE]), joint, grey)
      for start in range(0, max(len(patches), 1), _AT_ONCE)
    ]
  )


def _histograms(patches: np.ndarray, joint: bool, grey: str) -> np.ndarray:
  if patches.shape[-1] == 1 and grey == 'published':
    patches = patches[:, :, :3, 0]
  parts = 1 if joint else patches.shape[-1]
  if patches.dtype == np.uint8:
    bins = (patches // np.uint8(_BIN_WIDTH)).astype(np.intp)
  else:  # Rounding never lifts a quotient to a whole number.
    bins = (patches / _BIN_WIDTH).astype(np.intp)
  bins = np.minimum(bins, BINS - 1).reshape(len(patches), -1, parts)
  # One bincount over all: each histogram has its own range of numbers.
  ranges = np.arange(len(patches) * parts).reshape(len(patches), 1, parts)
  counts = np.bincount(
    (bins + BINS * ranges).ravel(), minlength=len(patches) * parts * BINS
  )
  return counts.reshape(len(patches), parts * BINS).astype(np.float64)


def divergence(centres: np.ndarray, patches: np.ndarray) -> np.ndarray:
  """Kullback-Leibler divergence of histograms, in bits.

  Args:
    centres: counts [m, k], the first argument of the divergence.
    patches: counts [n, k].

  Returns:
    Float64 [m, n], >= 0.

  Source: Ran et al., the program.
  """
  centre_shares, negative_entropy = _centre_terms(centres)
  return negative_entropy[:, None] - centre_shares @ _log_shares(patches).T


def cluster_patches(
  patches: Sequence[np.ndarray] | np.ndarray,
  order: np.ndarray,
  *,
  threshold: float,
  max_clusters: int,
  merge_singles: bool = False,
  grey_histogram: Literal['patch', 'published'] = 'patch',
) -> Clusters:
  """Online clustering: each patch joins the nearest centre or founds a new one.

  A centre is an image; it moves by 0.05 towards each patch that joins below
  the threshold. Once there are `max_clusters`, every patch joins the nearest,
  and centres rest.

  Args:
    patches: values in 0..255, uint8, n times [size, size, c].
    order: in which the patches are visited, a permutation [n].
    threshold: largest divergence to join at, in bits.
    max_clusters: at least 1.
    merge_singles: at the end, let the only member of a cluster join the
      nearest other one (as published for noise).
    grey_histogram: see `histograms`.

  Returns:
    The clusters.

  Raises:
    ValueError: `max_clusters` is not positive, `order` not a permutation, or
      `grey_histogram` unknown.

  Source: Ran et al., IEEE TIP 2023 (patch analysis), and its program.
  """
  if max_clusters < 1:
    raise ValueError(f'max_clusters = {max_clusters} must be positive')
  if grey_histogram not in GREY_HISTOGRAMS:
    raise ValueError(
      f'grey_histogram {grey_histogram!r} must be one of {GREY_HISTOGRAMS}'
    )
  if not np.array_equal(np.sort(order), np.arange(len(patches))):
    raise ValueError(
      f'order {list(order.shape)} must be a permutation of the {len(patches)} '
      'patches'
    )
  counts = histograms(patches, grey=grey_histogram)
  log_shares = _log_shares(counts)
  width = counts.shape[1]
  found = 0
  centres = np.empty((max_clusters, *np.shape(patches[0])))
  members: list[list[int]] = []
  shares = np.empty((max_clusters, width))
  entropies = np.empty(max_clusters)

  def place(label: int, centre_counts: np.ndarray) -> None:
    shares[label], entropies[label] = (
      x[0] for x in _centre_terms(centre_counts[None])
    )

  for visited, index in enumerate(order):
    if visited and visited % _LOG_EVERY == 0:
      _LOGGER.info('%d patches, %d clusters', visited, found)
    distances = entropies[:found] - shares[:found] @ log_shares[index]
    nearest = int(np.argmin(distances)) if found else -1
    if found == max_clusters:
      members[nearest].append(index)
    elif found and distances[nearest] < threshold:
      members[nearest].append(index)
      centre = _STEP * patches[index] + (1 - _STEP) * centres[nearest]
      centres[nearest] = centre
      place(nearest, histograms(centre[None], grey=grey_histogram)[0])
    else:
      centres[found] = patches[index]
      members.append([index])
      place(found, counts[index])
      found += 1
  alive = np.ones(found, bool)
  if merge_singles:
    for label, of_label in enumerate(members):
      if len(of_label) != 1 or alive.sum() == 1:
        continue
      alive[label] = False
      (only,) = of_label
      distances = entropies[:found] - shares[:found] @ log_shares[only]
      nearest = int(np.argmin(np.where(alive, distances, np.inf)))
      members[nearest].append(of_label.pop())
  kept = np.flatnonzero(alive)
  return Clusters(
    [np.array(members[label]) for label in kept],
    centres[:found] if alive.all() else centres[kept],
  )


def shares(counts: np.ndarray) -> np.ndarray:
  """Shares of counts [..., k], each of which is a little more than it was."""
  smoothed = counts + _SMOOTHING
  return smoothed / smoothed.sum(axis=-1, keepdims=True)


def _centre_terms(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Shares p [m, k] and sum of p log2 p [m]."""
  centre_shares = shares(counts)
  return centre_shares, (centre_shares * np.log2(centre_shares)).sum(axis=1)


def _log_shares(counts: np.ndarray) -> np.ndarray:
  return np.log2(shares(counts))
