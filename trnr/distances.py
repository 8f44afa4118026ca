"""Other distances between patches, which the published clustering does not use.

Histograms are counts, as `trnr.clustering.histograms` makes them.
"""

from typing import Any

import numpy as np

from trnr import clustering


def jensen_shannon_divergence(
  first: np.ndarray, second: np.ndarray
) -> np.ndarray:
  """Mean divergence of two histograms from the middle between them, in bits.

  Args:
    first: counts [m, k].
    second: counts [n, k].

  Returns:
    Float64 [m, n], in [0, 1].

  Source: Ran et al., the program (there of joint histograms).
  """
  first, second = (clustering.shares(x) for x in (first, second))
  p, q = first[:, None], second[None]
  middle = np.log2((p + q) / 2)
  return 0.5 * (
    (p * (np.log2(p) - middle)).sum(-1) + (q * (np.log2(q) - middle)).sum(-1)
  )


def wasserstein_distance(
  first: np.ndarray, second: np.ndarray, *, channels: int = 1
) -> np.ndarray:
  """How far intensities move from one histogram to the other, in bins.

  Args:
    first: counts [m, k].
    second: counts [n, k].
    channels: number of histograms that stand side by side in a row, of which
      the mean is taken.

  Returns:
    Float64 [m, n], >= 0.

  Source: Ran et al., the program.
  """
  first, second = (
    x.reshape(len(x), channels, -1)
    / x.reshape(len(x), channels, -1).sum(-1, keepdims=True)
    for x in (first, second)
  )
  moved = np.cumsum(first[:, None] - second[None], axis=-1)
  return np.abs(moved).sum(-1).mean(-1)


def l1_distance(
  first: np.ndarray, second: np.ndarray, *, wrapped: bool = False
) -> np.ndarray:
  """Sum of absolute differences of pixels, divided by 256.

  Args:
    first: values in 0..255, [m, h, w, c].
    second: values in 0..255, [n, h, w, c].
    wrapped: subtract in uint8, where 3 - 4 is 255, as the program does for
      such patches.

  Returns:
    Float64 [m, n], >= 0.

  Source: Ran et al., the program.
  """
  kind: type[Any] = np.uint8 if wrapped else np.float64
  difference = np.subtract(
    first.astype(kind)[:, None], second.astype(kind)[None]
  )
  return np.abs(difference).sum((2, 3, 4), dtype=np.float64) / 256
