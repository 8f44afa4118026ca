"""Files in and out, by a restoration that darkens."""

import numpy as np
import pytest
from PIL import Image

from common import restoration


def darken(pixels):
  return pixels * np.float32(0.5)


def save(path, value=200, shape=(6, 8, 3), **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full(shape, value, np.uint8)).save(path, **options)
  return str(path)


def test_files_folders_and_patterns(tmp_path):
  save(tmp_path / 'one' / 'ein Bild.png')
  (tmp_path / 'one' / 'notes.txt').write_text('no picture')
  save(tmp_path / 'two' / 'a.jpg')
  save(tmp_path / 'two' / 'b.png')
  save(tmp_path / 'c.bmp')
  problems = restoration.restore_files(
    darken,
    [
      str(tmp_path / 'one'),
      str(tmp_path / 'two' / '*.png'),
      str(tmp_path / 'c.bmp'),
    ],
    tmp_path / 'out' / 'deep',
  )
  assert problems == []
  written = sorted(p.name for p in (tmp_path / 'out' / 'deep').iterdir())
  assert written == ['b.png', 'c.bmp', 'ein Bild.png']
  for name in written:
    image = np.asarray(Image.open(tmp_path / 'out' / 'deep' / name))
    np.testing.assert_array_equal(image, 100)


def test_bad_files_are_listed_and_the_rest_is_done(tmp_path):
  folder = tmp_path / 'in'
  save(folder / 'good.png')
  (folder / 'bad.png').write_bytes(b'')
  (folder / 'folder.png').mkdir()
  (folder / 'loop.png').symlink_to(folder / 'loop.png')
  problems = restoration.restore_files(darken, [str(folder)], tmp_path / 'out')
  assert [p.path.name for p in problems] == [
    'bad.png',
    'folder.png',
    'loop.png',
  ]
  assert all(str(p.path) in p.reason for p in problems)
  assert [p.name for p in (tmp_path / 'out').iterdir()] == ['good.png']


def test_inputs_are_never_overwritten(tmp_path):
  path = save(tmp_path / 'a.png')
  with pytest.raises(ValueError, match=r'a.png is an input; choose another'):
    restoration.restore_files(darken, [path], tmp_path)
  # Nor by way of a link.
  (tmp_path / 'link').symlink_to(tmp_path)
  with pytest.raises(ValueError, match='is an input'):
    restoration.restore_files(darken, [path], tmp_path / 'link')
  np.testing.assert_array_equal(Image.open(path), 200)
  # What an earlier run has written is replaced.
  for _ in range(2):
    restoration.restore_files(darken, [path], tmp_path / 'out')


def test_two_of_one_name(tmp_path):
  paths = [save(tmp_path / name / 'a.png') for name in ('one', 'two')]
  with pytest.raises(ValueError, match=r'one/a.png and .*two/a.png would both'):
    restoration.restore_files(darken, paths, tmp_path / 'out')


@pytest.mark.parametrize('item', ['nowhere.png', 'empty', 'none*.png'])
def test_absent_inputs(tmp_path, item):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='is no image, and has none'):
    restoration.find([str(tmp_path / item)])


def test_ensemble_of_a_restoration_with_a_direction(tmp_path):
  seen = []

  def shifted(pixels):
    seen.append(pixels.shape)
    return np.roll(pixels, 1, axis=0)

  rng = np.random.default_rng(0)
  array = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
  Image.fromarray(array).save(tmp_path / 'a.png')
  problems = restoration.restore_files(
    shifted,
    [str(tmp_path / 'a.png')],
    tmp_path / 'out',
    self_ensemble=True,
    side_by_side=True,
  )
  assert not problems
  assert sorted(seen) == [(4, 6, 3)] * 4 + [(6, 4, 3)] * 4
  shifts = [np.roll(array, s, axis) for s in (1, -1) for axis in (0, 1)]
  expected = np.mean(np.float64(shifts), axis=0)
  restored = np.asarray(Image.open(tmp_path / 'out' / 'a.png'))
  np.testing.assert_allclose(restored, expected, atol=0.51)
  both = np.asarray(Image.open(tmp_path / 'out' / 'a.before_after.png'))
  np.testing.assert_array_equal(both, np.concatenate([array, restored], 1))


def test_palettes_become_png(tmp_path):
  path = save(tmp_path / 'a.gif')
  assert not restoration.restore_files(darken, [path], tmp_path / 'out')
  image = np.asarray(Image.open(tmp_path / 'out' / 'a.gif.png').convert('RGB'))
  np.testing.assert_array_equal(image, 100)
