"""Windows of a grid, place by place."""

import numpy as np
import pytest

from common import layers


def test_windows_and_back():
  grid = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  windows = layers.to_windows(grid, 2)
  assert windows.shape == (2, 6, 4, 3)
  np.testing.assert_array_equal(windows[1, 4], grid[1, 2:4, 2:4].reshape(4, 3))
  np.testing.assert_array_equal(
    layers.from_windows(windows, 2, grid.shape), grid
  )


@pytest.mark.parametrize(('side', 'bound'), [(2, None), (7, None), (4, 2)])
def test_relative_positions(side, bound):
  positions = layers.relative_positions(side, bound)
  bound = bound or side
  for query in range(side**2):
    for key in range(side**2):
      down, right = (
        min(max(distance, 1 - bound), bound - 1) + bound - 1
        for distance in (query // side - key // side, query % side - key % side)
      )
      assert positions[query, key] == down * (2 * bound - 1) + right
