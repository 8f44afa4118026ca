"""Histograms, divergences and clusters, by hand and as published."""

import numpy as np
import pytest

from trnr import clustering, patches


@pytest.fixture(scope='module')
def scene(golden):
  """The stored scene: its numbers, and its patches in colour and grey."""
  stored = golden('trnr/patch_analysis.npz')
  size = int(stored['patch_size'])

  def cut(image):
    return np.stack(
      [
        image[top : top + size, left : left + size]
        for top, left in stored['patch_top_left']
      ]
    )

  return (
    stored,
    cut(stored['image_bgr'][..., ::-1]),
    cut(stored['gray_image'][..., None]),
  )


@pytest.mark.parametrize(
  ('name', 'threshold', 'max_clusters'),
  [
    ('pair_t045_max350', 0.45, 350),
    ('pair_t045_max5', 0.45, 5),
    ('pair_t010_max350', 0.10, 350),
  ],
)
def test_stored_clusters_of_pairs(scene, name, threshold, max_clusters):
  stored, colour, _ = scene
  found = clustering.cluster_patches(
    colour,
    stored['visit_order'],
    threshold=threshold,
    max_clusters=max_clusters,
  )
  np.testing.assert_array_equal(found.labels(88), stored[f'{name}_class'])
  for moment in ('mean', 'std'):
    # The stored channels are blue, green, red.
    np.testing.assert_allclose(
      getattr(found.centres, moment)((1, 2))[:, ::-1],
      stored[f'{name}_centre_channel_{moment}'],
    )
  if f'{name}_centres' in stored:
    np.testing.assert_allclose(
      found.centres[..., ::-1], stored[f'{name}_centres']
    )


@pytest.mark.parametrize(
  ('name', 'threshold', 'max_clusters'),
  [
    ('single_color_t045_max300', 0.45, 300),
    ('single_color_t010_max300', 0.10, 300),
    ('single_gray_t025_max800', 0.25, 800),
  ],
)
def test_stored_clusters_of_single_images(scene, name, threshold, max_clusters):
  stored, colour, grey = scene
  found = clustering.cluster_patches(
    grey if 'gray' in name else colour,
    stored['visit_order'],
    threshold=threshold,
    max_clusters=max_clusters,
    merge_singles=True,
    grey_histogram='published',
  )
  expected = stored[f'{name}_class']
  # Emptied clusters leave gaps in the stored numbers.
  _, expected = np.unique(expected, return_inverse=True)
  np.testing.assert_array_equal(found.labels(88), expected)


@pytest.mark.parametrize(
  ('name', 'grey', 'options'),
  [
    ('dist_kl_channelwise', False, {}),
    ('dist_kl_joint', False, {'joint': True}),
    ('dist_gray_kl_as_shipped', True, {'grey': 'published'}),
    ('dist_gray_kl_joint', True, {}),
  ],
)
def test_stored_divergences(scene, name, grey, options):
  stored, *both = scene
  counts = clustering.histograms(
    both[grey][stored['distance_patches']], **options
  )
  np.testing.assert_allclose(
    clustering.divergence(counts, counts), stored[name], atol=1e-9
  )


def test_histograms_by_hand():
  patch = np.zeros((1, 2, 2, 3), np.uint8)
  patch[0, :, :, 0] = [[0, 4], [5, 255]]
  patch[0, :, :, 1] = 250
  counts = clustering.histograms(patch).reshape(3, 51)
  assert counts[0, [0, 1, 50]].tolist() == [2, 1, 1]
  assert counts[1, 50] == 4 and counts[2, 0] == 4
  joint = clustering.histograms(patch, joint=True)
  np.testing.assert_array_equal(joint[0], counts.sum(0))
  # Centres are float; a value just below a border stays below it.
  np.testing.assert_array_equal(
    clustering.histograms(np.full((1, 1, 1, 1), 4.999))[0, :2], [1, 0]
  )


def test_published_grey_histograms_see_three_columns():
  patch = np.zeros((1, 4, 4, 1), np.uint8)
  patch[0, :, 3] = 100
  assert clustering.histograms(patch).shape == (1, 51)
  published = clustering.histograms(patch, grey='published')
  assert published.shape == (1, 153)
  assert published.reshape(3, 51)[:, 0].tolist() == [4, 4, 4]


def test_divergence_by_hand():
  counts = np.zeros((2, 51))
  counts[0, 0], counts[1, 0], counts[1, 1] = 4, 2, 2
  smoothed = (counts + 1e-5) / (4 + 51e-5)
  expected = [[(p * np.log2(p / q)).sum() for q in smoothed] for p in smoothed]
  found = clustering.divergence(counts, counts)
  np.testing.assert_allclose(found, expected, atol=1e-12)
  # The centre comes first: not symmetric, and nearly one bit.
  assert found[0, 1] == pytest.approx(1, abs=1e-2) and found[1, 0] > 5


def flat(*values):
  return np.array(values, np.uint8)[:, None, None, None] * np.ones(
    (1, 4, 4, 1), np.uint8
  )


def cluster(values, **options):
  found = clustering.cluster_patches(
    flat(*values), np.arange(len(values)), **options
  )
  return [x.tolist() for x in found.members], found.centres


def test_first_come_first_founded():
  members, centres = cluster(
    [100, 0, 104, 101, 200], threshold=0.5, max_clusters=9
  )
  assert members == [[0, 2, 3], [1], [4]]
  # A centre moves by a twentieth at each patch.
  expected = 0.95 * (0.95 * 100 + 0.05 * 104) + 0.05 * 101
  np.testing.assert_allclose(centres[0], expected)


def test_once_there_are_enough_clusters_centres_rest():
  members, centres = cluster([100, 0, 104, 200], threshold=0.5, max_clusters=2)
  assert members[0][:2] == [0, 2] and sum(map(len, members)) == 4
  np.testing.assert_array_equal(centres[:, 0, 0, 0], [100, 0])


def test_single_members_join_the_nearest():
  mixed = flat(100, 0, 101, 1, 100)
  mixed[4, :2] = 200  # Half like the first, and like nothing else.
  found = clustering.cluster_patches(
    mixed, np.arange(5), threshold=0.5, max_clusters=9, merge_singles=True
  )
  assert [x.tolist() for x in found.members] == [[0, 2, 4], [1, 3]]
  assert len(found.centres) == 2
  alone, _ = cluster([7], threshold=0.5, max_clusters=9, merge_singles=True)
  assert alone == [[0]]


def test_order_is_that_of_the_visits():
  found = clustering.cluster_patches(
    flat(0, 100), np.array([1, 0]), threshold=0.5, max_clusters=9
  )
  assert found.labels(2).tolist() == [1, 0]


def test_errors_name_the_arguments():
  with pytest.raises(ValueError, match='max_clusters = 0'):
    cluster([1], threshold=0.5, max_clusters=0)
  with pytest.raises(ValueError, match=r'order \[2\] .* the 3 patches'):
    clustering.cluster_patches(
      flat(1, 2, 3), np.arange(2), threshold=0.5, max_clusters=9
    )
  with pytest.raises(ValueError, match="grey_histogram 'columns'"):
    cluster([1], threshold=0.5, max_clusters=9, grey_histogram='columns')


def test_stored_positions(scene):
  stored, _, _ = scene
  height, width = stored['image_bgr'].shape[:2]
  found = patches.patch_positions(
    height,
    width,
    size=int(stored['patch_size']),
    stride=int(stored['stride']),
    border='published',
  )
  np.testing.assert_array_equal(found, stored['patch_top_left'])
