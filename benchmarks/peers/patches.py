"""Patch analysis of TRNR in NumPy, patch by patch."""

import numpy as np

_BINS = 51


def _shares(patch: np.ndarray) -> np.ndarray:
  """Smoothed histograms of the channels of [h, w, 3], side by side."""
  bins = np.minimum(patch / 5, _BINS - 1).astype(np.int64)
  counts = np.concatenate(
    [np.bincount(channel, minlength=_BINS) for channel in bins.reshape(-1, 3).T]
  )
  smoothed = counts + 1e-5
  return smoothed / smoothed.sum()


def cut(images: list[np.ndarray], size: int, stride: int) -> list[np.ndarray]:
  """All patches of [h, w, 3], rows outer, columns inner."""
  return [
    image[top : top + size, left : left + size]
    for image in images
    for top in range(0, image.shape[0] - size + 1, stride)
    for left in range(0, image.shape[1] - size + 1, stride)
  ]


def cluster(
  patches: list[np.ndarray],
  order: np.ndarray,
  *,
  threshold: float = 0.45,
  max_clusters: int = 350,
  at_once: bool = False,
) -> list[list[int]]:
  """Lets each patch join the nearest centre, or found a new one.

  Args:
    patches: uint8 [size, size, 3].
    order: in which they are visited.
    threshold: largest divergence to join at, in bits.
    max_clusters: after which centres rest.
    at_once: compare with all centres in one operation, not one by one as the
      published program does.

  Returns:
    Numbers of the patches in each cluster.
  """
  centres: list[np.ndarray] = []
  members: list[list[int]] = []
  shares = np.empty((max_clusters, 3 * _BINS))

  def divergences(q: np.ndarray) -> np.ndarray:
    if at_once:
      p = shares[: len(centres)]
      return (p * np.log2(p / q)).sum(1)
    each = [(p * np.log2(p / q)).sum() for p in shares[: len(centres)]]
    return np.array(each)

  for index in order.tolist():
    patch = patches[index]
    q = _shares(patch)
    count = len(centres)
    if count:
      distances = divergences(q)
      nearest = int(distances.argmin())
    if count == max_clusters:
      members[nearest].append(index)
    elif count and distances[nearest] < threshold:
      members[nearest].append(index)
      centres[nearest] = 0.05 * patch + 0.95 * centres[nearest]
      shares[nearest] = _shares(centres[nearest])
    else:
      centres.append(patch.astype(np.float64))
      members.append([index])
      shares[count] = q
  return members
