import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from common.data import augmentations
from common.data.augmentations import RandAugment

FILL = (129, 124, 112)
LEVEL = augmentations.Level(
  magnitude=9.0,
  sign=1,
  increasing=True,
  fill=FILL,
  resampling=Image.Resampling.BILINEAR,
)


def _image(height=20, width=20):
  rng = np.random.default_rng(0)
  return rng.integers(40, 200, size=(height, width, 3), dtype=np.uint8)


def _apply(name, image=None, **changes):
  """The result of one operation, as integers that cannot wrap."""
  image = Image.fromarray(_image() if image is None else image)
  level = dataclasses.replace(LEVEL, **changes)
  return np.asarray(augmentations.OPERATIONS[name](image, level)).astype(int)


def test_there_are_fifteen_operations():
  assert len(augmentations.OPERATIONS) == 15


def test_invert():
  np.testing.assert_array_equal(_apply('invert'), 255 - _image().astype(int))


def test_auto_contrast_spreads_each_channel():
  out = _apply('auto_contrast')
  assert out.min(axis=(0, 1)).tolist() == [0] * 3
  assert out.max(axis=(0, 1)).tolist() == [255] * 3


def test_equalise():
  expected = ImageOps.equalize(Image.fromarray(_image()))
  np.testing.assert_array_equal(_apply('equalise'), np.asarray(expected))


@pytest.mark.parametrize(
  'magnitude, increasing, kept',
  [(9, True, 1), (0, True, 4), (10, True, 0), (9, False, 3)],
)
def test_posterise_keeps_the_upper_bits(magnitude, increasing, kept):
  np.testing.assert_array_equal(
    _apply('posterise', magnitude=magnitude, increasing=increasing),
    _image().astype(int) >> (8 - kept) << (8 - kept),
  )


@pytest.mark.parametrize(
  'magnitude, increasing, threshold',
  [(9, True, 26), (4, True, 154), (0, True, 256), (4, False, 102)],
)
def test_solarise_inverts_from_its_threshold(magnitude, increasing, threshold):
  x = _image().astype(int)
  np.testing.assert_array_equal(
    _apply('solarise', magnitude=magnitude, increasing=increasing),
    np.where(x < threshold, x, 255 - x),
  )


@pytest.mark.parametrize('magnitude, added', [(9, 99), (2.5, 27)])
def test_solarise_add_lifts_the_dark_half(magnitude, added):
  x = _image().astype(int)
  np.testing.assert_array_equal(
    _apply('solarise_add', magnitude=magnitude), np.where(x < 128, x + added, x)
  )


@pytest.mark.parametrize(
  'name, enhance',
  [
    ('colour', ImageEnhance.Color),
    ('contrast', ImageEnhance.Contrast),
    ('brightness', ImageEnhance.Brightness),
    ('sharpness', ImageEnhance.Sharpness),
  ],
)
@pytest.mark.parametrize(
  'changes, factor',
  [
    ({'magnitude': 9.0, 'sign': 1}, 1.81),
    ({'magnitude': 9.0, 'sign': -1}, 0.19),
    ({'magnitude': 10.0, 'sign': -1}, 0.1),
    ({'magnitude': 9.0, 'increasing': False}, 1.72),
  ],
)
def test_enhancements(name, enhance, changes, factor):
  expected = enhance(Image.fromarray(_image())).enhance(factor)
  # A factor that is rounded differently may tip a value over.
  assert np.abs(_apply(name, **changes) - np.asarray(expected)).max() <= 1


def test_brightness_multiplies():
  out = _apply('brightness', magnitude=5.0, sign=-1)
  assert np.abs(out - 0.55 * _image()).max() <= 1


@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize('name, axis', [('translate_x', 1), ('translate_y', 0)])
def test_translations_shift_and_fill(name, axis, sign):
  out = _apply(name, magnitude=10.0, sign=sign)  # 0.45 of 20 pixels: 9.
  x, out = (np.moveaxis(a, axis, 0)[::sign] for a in (_image(), out))
  np.testing.assert_array_equal(out[:11], x[9:])
  np.testing.assert_array_equal(out[11:], np.broadcast_to(FILL, (9, 20, 3)))


@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize('name, axis', [('shear_x', 0), ('shear_y', 1)])
def test_shears_shift_in_proportion(name, axis, sign):
  # On a ramp along the shear, 0.3 pixels per line are 0.3 * 8 grey levels.
  ramp = np.broadcast_to(8 * np.arange(20), (20, 20))
  ramp = ramp if axis == 0 else ramp.T
  image = np.stack([ramp] * 3, axis=-1).astype(np.uint8)
  out = _apply(name, image=image, magnitude=10.0, sign=sign)
  shift = np.moveaxis(out - image, axis, 0)[..., 0][:, 10]
  lines = np.arange(20) + 0.5
  np.testing.assert_allclose(shift, sign * 0.3 * 8 * lines, atol=1)


@pytest.mark.parametrize('sign', [-1, 1])
def test_rotation(sign):
  out = _apply('rotate', magnitude=8.0, sign=sign)
  expected = Image.fromarray(_image()).rotate(
    sign * 24, Image.Resampling.BILINEAR, fillcolor=FILL
  )
  np.testing.assert_array_equal(out, np.asarray(expected))
  np.testing.assert_array_equal(out[0, 0], FILL)


@pytest.mark.parametrize('name', ['rotate', 'shear_x', 'translate_y'])
def test_geometry_uses_the_drawn_filter(name):
  bicubic = _apply(name, resampling=Image.Resampling.BICUBIC)
  assert not np.array_equal(bicubic, _apply(name))


@pytest.mark.parametrize('name', list(augmentations.OPERATIONS))
@pytest.mark.parametrize('increasing', [True, False])
def test_every_magnitude_works(name, increasing):
  for magnitude in np.linspace(0, 10, 21):
    for sign in (-1, 1):
      out = _apply(
        name, magnitude=float(magnitude), sign=sign, increasing=increasing
      )
      assert out.shape == (20, 20, 3)


@pytest.fixture
def applied(monkeypatch):
  """Records what is applied instead of doing it."""
  records = []

  def recorder(name):
    def record(image, level):
      records.append((name, level))
      return image

    return record

  monkeypatch.setattr(
    augmentations,
    'OPERATIONS',
    {name: recorder(name) for name in augmentations.OPERATIONS},
  )
  return records


def test_draws_have_the_published_distribution(applied):
  augment = RandAugment.parse('rand-m9-mstd0.5-inc1', fill=FILL)
  rng = np.random.default_rng(0)
  per_image = []
  for _ in range(3000):
    before = len(applied)
    augment({'image': _image(2, 2)}, rng)
    per_image.append(len(applied) - before)
  # Two slots, each used half of the time.
  np.testing.assert_allclose(
    np.bincount(per_image) / 3000, [0.25, 0.5, 0.25], atol=0.05
  )
  names, levels = zip(*applied, strict=True)
  counts = np.array([names.count(name) for name in augmentations.OPERATIONS])
  np.testing.assert_allclose(counts / len(names), 1 / 15, atol=0.025)
  magnitudes = np.array([level.magnitude for level in levels])
  assert magnitudes.max() == 10  # Clipped.
  inside = magnitudes[magnitudes < 9]  # The half that clipping leaves alone.
  assert inside.size / magnitudes.size == pytest.approx(0.5, abs=0.05)
  deviation = np.sqrt(np.mean((inside - 9) ** 2))
  assert deviation == pytest.approx(0.5, rel=0.05)
  assert np.mean([level.sign for level in levels]) == pytest.approx(0, abs=0.1)
  bilinear = [level.resampling == LEVEL.resampling for level in levels]
  assert np.mean(bilinear) == pytest.approx(0.5, abs=0.05)
  assert {level.fill for level in levels} == {FILL}


def test_both_slots_can_draw_the_same_operation(applied):
  augment = RandAugment(probability=1.0)
  rng = np.random.default_rng(0)
  for _ in range(1500):
    augment({'image': _image(2, 2)}, rng)
  names = [name for name, _ in applied]
  same = np.mean([a == b for a, b in zip(names[::2], names[1::2], strict=True)])
  assert same == pytest.approx(1 / 15, abs=0.03)


def test_augmentation_changes_the_image_only():
  augment = RandAugment.parse('rand-m9-mstd0.5-inc1', fill=FILL)
  image = _image(32, 24)
  changed = 0
  for seed in range(40):
    example = {'image': image, 'label': np.int32(3)}
    outs = [augment(example, np.random.default_rng(seed)) for _ in '12']
    np.testing.assert_array_equal(outs[0]['image'], outs[1]['image'])
    assert outs[0]['image'].shape == (32, 24, 3)
    assert outs[0]['image'].dtype == np.uint8
    assert outs[0]['label'] == 3
    changed += not np.array_equal(outs[0]['image'], image)
  np.testing.assert_array_equal(image, _image(32, 24))
  assert 20 < changed < 40
  assert pickle.loads(pickle.dumps(augment)) == augment


@pytest.mark.parametrize(
  'text, expected',
  [
    ('rand-m9-mstd0.5-inc1', RandAugment(9, 0.5, True, fill=FILL)),
    ('rand-m7-mstd0.5', RandAugment(7, 0.5, False, fill=FILL)),
    ('rand-n3-m4', RandAugment(4, 0, False, num_operations=3, fill=FILL)),
  ],
)
def test_notation(text, expected):
  assert RandAugment.parse(text, fill=FILL) == expected


@pytest.mark.parametrize(
  'text', ['', 'augmix-m3', 'rand-m', 'rand-m9-x1', 'rand-m9-m3', 'rand-m-9']
)
def test_bad_notation_is_named(text):
  with pytest.raises(ValueError, match=f"cannot read randaugment '{text}'"):
    RandAugment.parse(text, fill=FILL)


def test_bad_magnitudes_are_named():
  with pytest.raises(ValueError, match=r'magnitude = 11.0 must be in 0\.\.10'):
    RandAugment.parse('rand-m11', fill=FILL)
  with pytest.raises(ValueError, match='magnitude_std = -1'):
    RandAugment(magnitude_std=-1)
