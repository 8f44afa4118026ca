"""Square windows of a grid, and where the tokens in one lie to each other."""

import numpy as np

from common.array_types import Array


def to_windows(x: Array, side: int) -> Array:
  """Cuts a grid into windows, row by row; so are the tokens in each.

  Args:
    x: [b, h, w, c], both sides multiples of `side`.
    side: side of a window.

  Returns:
    [b, windows, side * side, c].
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // side, side, width // side, side, channels)
  return x.swapaxes(2, 3).reshape(batch, -1, side * side, channels)


def from_windows(x: Array, side: int, grid: tuple[int, ...]) -> Array:
  """Inverse of `to_windows`, for a grid of the shape `grid`."""
  batch, height, width, channels = grid
  x = x.reshape(batch, height // side, width // side, side, side, channels)
  return x.swapaxes(2, 3).reshape(grid)


def relative_positions(side: int, bound: int | None = None) -> np.ndarray:
  """Row of a table of biases for each pair of tokens in a window.

  The table has a row for each distance down, and in it one for each distance
  to the right, both from -(bound - 1) to bound - 1.

  Args:
    side: side of the window.
    bound: larger distances count as bound - 1; None means the side, which
      leaves all as they are.

  Returns:
    Integers [side^2, side^2] in 0..(2 * bound - 1)^2 - 1, of the first token
    from the second.
  """
  bound = side if bound is None else bound
  row, column = np.indices((side, side)).reshape(2, -1)
  down, right = (
    np.clip(place[:, None] - place[None], 1 - bound, bound - 1) + bound - 1
    for place in (row, column)
  )
  return down * (2 * bound - 1) + right
