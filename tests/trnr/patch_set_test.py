"""Patch sets in memory, in a file and in folders."""

import numpy as np
import pytest
from PIL import Image

from trnr.patch_set import draw_clusters, PatchSet, read_folders


def patch_set(sizes=(2, 3), variants=1, channels=3):
  count = sum(sizes)
  rng = np.random.default_rng(0)
  return PatchSet(
    rng.integers(0, 256, (count, 4, 4, channels), np.uint8),
    rng.integers(0, 256, (count, variants, 4, 4, channels), np.uint8)
    if variants
    else None,
    np.repeat(np.arange(len(sizes)), sizes),
  )


def assert_same(a, b):
  np.testing.assert_array_equal(a.clean, b.clean)
  np.testing.assert_array_equal(a.cluster, b.cluster)
  assert (a.degraded is None) == (b.degraded is None)
  if a.degraded is not None:
    np.testing.assert_array_equal(a.degraded, b.degraded)


def test_sizes_and_starts():
  found = patch_set((2, 3, 1))
  assert found.sizes.tolist() == [2, 3, 1]
  assert found.starts.tolist() == [0, 2, 5]
  assert len(found) == 6
  assert found.summary() == (
    '6 patches of 4 pixels in 3 clusters of 1 to 3 (median 2)'
  )


@pytest.mark.parametrize('variants', [0, 1, 2])
def test_file_round_trip(tmp_path, variants):
  path = tmp_path / 'new' / 'patches.npz'
  patch_set(variants=variants).write(path)
  assert_same(PatchSet.read(path), patch_set(variants=variants))
  assert [x.name for x in path.parent.iterdir()] == ['patches.npz']


@pytest.mark.parametrize('variants', [0, 1, 3])
def test_folder_round_trip(tmp_path, variants):
  written = patch_set((2, 3), variants)
  written.write_folders(tmp_path / 'train')
  assert_same(read_folders(tmp_path / 'train'), written)
  names = {
    0: set(),
    1: {'patch-2.png'},
    3: {f'patch-2x{v}.png' for v in (1, 2, 3)},
  }
  rain = tmp_path / 'train' / 'rain' / 'cp-1'
  assert {x.name for x in rain.glob('patch-2*')} == names[variants]


def test_folders_in_string_order(tmp_path):
  written = patch_set((1,) * 11, variants=0, channels=1)
  written.write_folders(tmp_path)
  found = read_folders(tmp_path, grey=True)
  order = [0, 1, 10, *range(2, 10)]  # cp-0, cp-1, cp-10, cp-2, ...
  np.testing.assert_array_equal(found.clean, written.clean[order])


def test_centres_are_patches_only_if_asked_for(tmp_path):
  patch_set((2,), variants=0).write_folders(tmp_path)
  centre = np.zeros((4, 4, 3), np.uint8)
  Image.fromarray(centre).save(tmp_path / 'clean' / 'cp-0' / 'center.png')
  assert len(read_folders(tmp_path)) == 2
  found = read_folders(tmp_path, centres=True)
  np.testing.assert_array_equal(found.clean[0], centre)


@pytest.mark.parametrize('channels', [1, 3])
def test_drawing_has_a_row_for_each_cluster(tmp_path, channels):
  drawn = patch_set((9, 1, 2), variants=0, channels=channels)
  draw_clusters(drawn, tmp_path / 'clusters.png', shown=4)
  picture = np.asarray(Image.open(tmp_path / 'clusters.png'))
  rows = np.split(picture, 3)
  expected = np.broadcast_to(drawn.clean[9], (4, 4, 3))
  np.testing.assert_array_equal(rows[1][:4, 40:44], expected)
  assert (rows[1][:4, 48:52] == 255).all()  # No second patch there.
  assert (rows[0][:, 40 + 4 * 8 :] < 255).any()


def test_errors(tmp_path):
  good = patch_set()
  with pytest.raises(ValueError, match=r'cluster \[4\] do not fit'):
    PatchSet(good.clean, good.degraded, good.cluster[:4])
  with pytest.raises(ValueError, match='order of their clusters'):
    PatchSet(good.clean, good.degraded, good.cluster[::-1])
  with pytest.raises(ValueError, match='at least one'):
    PatchSet(good.clean[:0], None, good.cluster[:0])
  with pytest.raises(FileNotFoundError, match='absent'):
    PatchSet.read(tmp_path / 'absent.npz')
  damaged = tmp_path / 'damaged.npz'
  damaged.write_bytes(b'no archive')
  with pytest.raises(ValueError, match='not a patch file'):
    PatchSet.read(damaged)
  with pytest.raises(FileNotFoundError, match='no cluster folders'):
    read_folders(tmp_path)
  good.write_folders(tmp_path)
  (tmp_path / 'rain' / 'cp-0' / 'patch-0.png').unlink()
  with pytest.raises(ValueError, match=r'patch-0.png cannot be read'):
    read_folders(tmp_path)
