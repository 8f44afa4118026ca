import dataclasses
import pickle

import numpy as np
import pytest

from common.data import pairs, rain


def layer(preset, seed=0, shape=(160, 200)):
  return rain.rain_layer(shape, preset, np.random.default_rng(seed))


@pytest.mark.parametrize('name', rain.PRESETS)
def test_presets(name):
  drawn = layer(rain.PRESETS[name])
  assert drawn.shape == (160, 200) and drawn.dtype == np.float32
  assert drawn.min() == 0 and 0.2 < drawn.max() <= 1
  # Streaks, not fog: some of the picture stays free of rain.
  assert 0.005 < drawn.mean() < 0.2 and (drawn < 0.02).mean() > 0.3
  np.testing.assert_array_equal(drawn, layer(rain.PRESETS[name]))
  assert (drawn != layer(rain.PRESETS[name], seed=1)).any()


def moments(drawn):
  """Mean, variances along rows and columns, and the covariance of a layer."""
  row, column = np.indices(drawn.shape) - np.reshape(
    [(n - 1) / 2 for n in drawn.shape], (2, 1, 1)
  )
  total = drawn.sum()
  row -= (drawn * row).sum() / total
  column -= (drawn * column).sum() / total
  products = (row * row, column * column, row * column)
  return [(drawn * product).sum() / total for product in products]


@pytest.mark.parametrize('angle', [-50, 0, 30])
def test_one_streak(angle):
  preset = rain.RainPreset(
    length=40,
    angle=angle,
    width=3,
    density=0,
    brightness=0.5,
    spread=0,
    angle_spread=0,
  )
  canvas = rain._streaks(
    np.full((2, 1, 1, 1), 40.0), (81, 81), preset, np.random.default_rng(0)
  ).reshape(81, 81)
  # A pixel is a little wider than a point: of 3 it makes sqrt(3^2 + 1).
  dimmed = 0.5 * 3 / 10**0.5
  np.testing.assert_allclose(canvas[40, 40], dimmed, rtol=1e-5)
  rows, columns, both = moments(canvas)
  directions = np.linalg.eigh([[rows, both], [both, columns]])[1]
  down, right = directions[:, 1] * np.sign(directions[0, 1])
  np.testing.assert_allclose(
    np.rad2deg(np.arctan2(-right, down)), angle, atol=1
  )
  if angle == 0:
    # Half of it at half a width from the middle, nothing beyond the ends.
    side = dimmed * 0.5 ** (4 * 2**2 / 10)
    np.testing.assert_allclose(canvas[40, [38, 42]], side, rtol=1e-5)
    assert canvas[22, 40] > 0.1 and canvas[:21, 40].max() == 0


def test_numbers_do_what_they_say():
  base = rain.RainPreset(
    length=12, angle=10, width=1.5, density=1, brightness=0.1, spread=0
  )
  mean = layer(base, shape=(400, 400)).mean()
  # Total brightness is the product of all; few streaks overlap or saturate.
  for name in ('length', 'width', 'density', 'brightness'):
    double = dataclasses.replace(base, **{name: 2 * getattr(base, name)})
    ratio = layer(double, shape=(400, 400)).mean() / mean
    np.testing.assert_allclose(ratio, 2, rtol=0.15, err_msg=name)
  assert layer(dataclasses.replace(base, density=0)).max() == 0


def test_rain_reaches_the_borders():
  preset = rain.RainPreset(
    length=30, angle=40, width=1.5, density=20, brightness=0.02
  )
  drawn = layer(preset, shape=(200, 200))
  for border in (drawn[:4], drawn[-4:], drawn[:, :4], drawn[:, -4:]):
    np.testing.assert_allclose(border.mean(), drawn.mean(), rtol=0.25)


def test_steep_streaks_stay_where_they_are():
  # Beside a corner of the image that one streak covers nothing is drawn, so
  # whatever leaves the canvas on one side does not come back on the other.
  preset = rain.RainPreset(
    length=30,
    angle=60,
    width=1,
    density=0,
    brightness=0.5,
    spread=0,
    angle_spread=30,
  )
  centres = np.stack([np.linspace(40, 60, 200), np.full(200, 22.0)])
  canvas = rain._streaks(
    centres[..., None, None], (100, 100), preset, np.random.default_rng(0)
  ).reshape(100, 100)
  assert canvas[:, :40].sum() > 100
  assert canvas[:, 42:].max() < 1e-6


def test_rendering_adds_the_layer():
  rng = np.random.default_rng(0)
  image = rng.integers(256, size=(60, 50, 3), dtype=np.uint8)
  for name, preset in rain.PRESETS.items():
    rainy = rain.render_rain(image, preset, np.random.default_rng(5))
    added = rain.rain_layer((60, 50), preset, np.random.default_rng(5))
    expected = image + np.rint(255 * added)[..., None]
    np.testing.assert_array_equal(rainy, expected.clip(0, 255), err_msg=name)
    assert rainy.dtype == np.uint8
  assert rain.render_rain(image[:1, :1, :1], preset, rng).shape == (1, 1, 1)


def test_source():
  clean = [np.full((20, 30 + i, 3), 40 * i, dtype=np.uint8) for i in range(2)]
  source = pairs.CleanArrays(clean, ('a', 'b'))
  heavy = rain.PRESETS['heavy']
  once = rain.WithRain(source, heavy, seed=3)
  assert len(once) == 2 and once.names == ('a', 'b')
  thrice = pickle.loads(
    pickle.dumps(rain.WithRain(source, heavy, seed=3, variants=3))
  )
  assert len(thrice) == 6
  assert thrice.names[2:4] == ('a (rain 3)', 'b (rain 1)')
  for i in range(2):
    np.testing.assert_array_equal(once[i]['target'], clean[i])
    np.testing.assert_array_equal(once[i]['input'], thrice[3 * i]['input'])
    np.testing.assert_array_equal(once[i]['input'], once[i]['input'])
  inputs = {thrice[i]['input'].tobytes() for i in range(6)}
  assert len(inputs) == 6
  other = rain.WithRain(source, heavy, seed=4)
  assert (other[0]['input'] != once[0]['input']).any()


@pytest.mark.parametrize(
  'options, message',
  [
    ({'length': 0}, 'length = 0 must be positive'),
    ({'density': -1}, 'density = -1 must not be negative'),
    ({'spread': 1}, r'spread = 1 must be in \[0, 1\)'),
  ],
)
def test_bad_presets_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(rain.PRESETS['light'], **options)


def test_bad_images_and_variants_are_named():
  image = np.zeros((4, 4), np.uint8)
  light = rain.PRESETS['light']
  with pytest.raises(ValueError, match=r'image is uint8\[4, 4\], but must be'):
    rain.render_rain(image, light, np.random.default_rng(0))
  source = pairs.CleanArrays([image[..., None]], ('a',))
  with pytest.raises(ValueError, match='variants = 0 must be positive'):
    rain.WithRain(source, light, seed=0, variants=0)
