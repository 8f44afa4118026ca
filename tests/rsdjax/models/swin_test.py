"""The windows of Swin, place by place."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsdjax.models import swin


@pytest.mark.parametrize(('side', 'shift'), [(4, 2), (7, 3)])
def test_shift_mask_keeps_apart_what_was_not_adjacent(side, shift):
  """Two tokens of a window attend if rolling back leaves them in place."""
  height, width = 2 * side, 3 * side
  place = np.stack(np.indices((height, width)), -1)[None]
  rolled = np.roll(place, (-shift, -shift), (1, 2))
  windows = swin.to_windows(rolled, side)[0]
  apart = windows[:, :, None] - windows[:, None]
  adjacent = (np.abs(apart) < side).all(-1)
  mask = swin.shift_mask(height, width, side, shift)
  np.testing.assert_array_equal(mask, np.where(adjacent, 0.0, -100.0))


def test_patch_merging_goes_down_columns_first():
  grid = jnp.arange(4.0).reshape(1, 2, 2, 1)
  module = swin.PatchMerging()
  variables = {
    'params': {
      'norm': {'scale': jnp.arange(1.0, 5.0), 'bias': jnp.zeros(4)},
      'reduction': {'kernel': jnp.eye(4)[:, :2]},
    }
  }
  # Values 0, 2, 1, 3 in this order, normalised, times 1, 2, 3, 4.
  normalised = (np.array([0, 2, 1, 3]) - 1.5) / np.sqrt(1.25 + 1e-5)
  np.testing.assert_allclose(
    module.apply(variables, grid)[0, 0, 0],
    (normalised * [1, 2, 3, 4])[:2],
    rtol=1e-6,
  )
