"""Distances between patches, by hand and as published."""

import numpy as np
import pytest

from trnr import clustering, distances


@pytest.fixture(scope='module')
def scene(golden):
  stored = golden('trnr/patch_analysis.npz')
  size = int(stored['patch_size'])
  corners = stored['patch_top_left'][stored['distance_patches']]
  patches = [
    stored['image_bgr'][top : top + size, left : left + size]
    for top, left in corners
  ]
  return stored, np.stack(patches)


def test_stored_distances(scene):
  stored, patches = scene
  apart, joint = (
    clustering.histograms(patches, joint=joint) for joint in (False, True)
  )
  for name, found in {
    'js_joint': distances.jensen_shannon_divergence(joint, joint),
    'emd_joint': distances.wasserstein_distance(joint, joint),
    'emd_channelwise': distances.wasserstein_distance(apart, apart, channels=3),
    'l1_float': distances.l1_distance(patches, patches),
    'l1_uint8': distances.l1_distance(patches, patches, wrapped=True),
  }.items():
    np.testing.assert_allclose(
      found, stored[f'dist_{name}'], rtol=1e-12, atol=1e-12, err_msg=name
    )


def test_by_hand():
  first, second = np.array([[4.0, 0, 0, 0]]), np.array([[0, 0, 2.0, 2]])
  assert distances.wasserstein_distance(first, second) == 2.5
  halves = distances.wasserstein_distance(first, second, channels=1)
  assert halves.shape == (1, 1)
  divergence = distances.jensen_shannon_divergence(first, second)
  np.testing.assert_allclose(divergence, 1, atol=1e-4)
  dark, bright = (np.full((1, 2, 2, 1), x, np.uint8) for x in (3, 4))
  assert distances.l1_distance(dark, bright) == 4 / 256
  assert distances.l1_distance(dark, bright, wrapped=True) == 4 * 255 / 256
