"""Grids pixel by pixel, and which restorations are shown."""

import numpy as np

from common import pictures


def test_grid_by_hand():
  grey = np.full((64, 64, 1), 0.5, np.float32)
  tiny = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
  large = np.zeros((300, 70, 3), np.uint8)
  large[22:-22] = 9  # The middle 256 rows.
  sheet = pictures.grid([[grey, tiny], [large]])
  # A picture of 3 pixels is enlarged 22 times; a cell is as large as the
  # largest picture of all.
  assert sheet.shape == (2 * 258 + 2, 2 * 72 + 2, 3) and sheet.dtype == np.uint8
  assert (sheet[2:66, 2:66] == 128).all() and (sheet[66:260, 2:66] == 255).all()
  np.testing.assert_array_equal(sheet[2:46:22, 74:140:22], tiny)
  assert (sheet[260:516, 2:72] == 9).all() and (sheet[:, :2] == 255).all()
  assert (sheet[260:, 74:] == 255).all()


def test_floats_are_cut_off_and_rounded():
  values = np.array([-1, 0.0019, 0.5, 2]).reshape(1, 4, 1)
  np.testing.assert_array_equal(
    pictures.rgb(values)[0], [[0] * 3, [0] * 3, [128] * 3, [255] * 3]
  )


def test_restorations_of_each_group_are_shown():
  found = pictures.Restorations(groups=2)
  assert found.pictures() == {}
  for _ in range(2):  # The second time replaces the first.
    found.clear()
    for number, group in enumerate(['light', 'heavy', '']):
      for name in ('scene 1/7x2.png', 'b.jpg', 'c.png'):
        images = [np.full((70, 80, 3), x / 255) for x in (number, 50, 100)]
        found.of_group(group)(name, *images)
  shown = found.pictures()
  names = ['light_7x2', 'light_b', 'heavy_7x2', 'heavy_b']
  assert list(shown) == [
    'restored',
    *(f'before_after/{n}_{x}' for n in names for x in ('before', 'after')),
  ]
  assert shown['restored'].shape == (4 * 72 + 2, 3 * 82 + 2, 3)
  assert (
    shown['restored'][2 + 2 * 72, 2::82] == [[1] * 3, [50] * 3, [100] * 3]
  ).all()
  assert (shown['before_after/heavy_b_before'] == 1).all()
  assert (shown['before_after/heavy_b_after'] == 50).all()


def test_a_name_without_a_group():
  found = pictures.Restorations()
  for name in ('3.png', '4.png', '5.png', 'a b.png', '6.png'):
    found.of_group('')(name, *[np.zeros((1100, 70, 1), np.float32)] * 3)
  shown = found.pictures()
  assert shown['before_after/a_b_after'].shape == (1024, 70, 3)
  assert 'before_after/6_after' not in shown and len(shown) == 9
