import pickle

import numpy as np
import pytest

from common.data import mixing

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def _batch(n=4, size=8, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(256, size=(n, size, size, 3), dtype=np.uint8),
    'label': np.arange(n, dtype=np.int32) % 5,
  }


def test_mixup_equals_reference(golden):
  stored = golden('rsd/recipe.npz')
  out = mixing.mixup(stored['mix_in'], float(stored['mixup_lam']))
  # One float32 rounding of numbers below 256.
  np.testing.assert_allclose(out, stored['mixup_out'], rtol=0, atol=2e-5)
  assert out.dtype == np.float32


def test_mixup_rounds_bytes_to_the_nearest():
  images = np.array([[[[10]]], [[[200]]]], np.uint8)
  out = mixing.mixup(images, 0.3)
  assert out.dtype == np.uint8
  assert out.ravel().tolist() == [143, 67]  # 0.3 * 10 + 0.7 * 200, ...
  assert mixing.mixup(images, 0.25).ravel().tolist() == [152, 58]  # 57.5 -> 58


def test_mixup_of_share_one_changes_nothing():
  images = _batch()['image']
  np.testing.assert_array_equal(mixing.mixup(images, 1.0), images)


@pytest.mark.parametrize(
  'share, centre, rows, columns',
  [
    (0.75, (8, 8), slice(4, 12), slice(4, 12)),  # Sides int(16 * 0.5).
    (0.75, (0, 15), slice(0, 4), slice(11, 16)),  # Clipped.
    (0.6, (8, 6), slice(3, 13), slice(1, 11)),  # Sides int(10.1).
    (1.0, (5, 5), slice(5, 5), slice(5, 5)),
    (0.0, (8, 8), slice(0, 16), slice(0, 16)),
  ],
)
def test_cutmix_pastes_a_rectangle(share, centre, rows, columns):
  images = _batch(size=16)['image']
  before = images.copy()
  out, kept = mixing.cutmix(images, share, centre)
  expected = images.copy()
  expected[:, rows, columns] = images[::-1][:, rows, columns]
  np.testing.assert_array_equal(out, expected)
  np.testing.assert_array_equal(images, before)
  pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
  assert kept == pytest.approx(1 - pasted / 256)


def test_smooth_labels():
  target = mixing.smooth_labels(np.array([2, 0]), 4, 0.1)
  assert target.dtype == np.float32
  np.testing.assert_allclose(
    target,
    [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]],
    rtol=1e-6,
  )


def test_mixed_labels_follow_the_images():
  # Images of one grey level each tell the share that was really kept.
  grey = np.array([0, 255], np.uint8)[:, None, None, None]
  batch = {
    'image': np.broadcast_to(grey, (2, 32, 32, 3)).copy(),
    'label': np.array([1, 3], np.int32),
  }
  for mix in (
    mixing.Mix(5, cutmix_alpha=0.0, label_smoothing=0.0),
    mixing.Mix(5, mixup_alpha=0.0, label_smoothing=0.0),
  ):
    for seed in range(10):
      out = mix(batch, np.random.default_rng(seed))
      assert out['image'].dtype == np.uint8
      assert out['label'].dtype == np.float32
      of_other = out['image'][0].mean() / 255
      np.testing.assert_allclose(
        out['label'][0], [0, 1 - of_other, 0, of_other, 0], atol=3e-3
      )
      np.testing.assert_allclose(
        out['label'][1], out['label'][0, [0, 3, 2, 1, 4]]
      )


def test_smoothing_of_mixed_labels():
  out = mixing.Mix(5)(_batch(), np.random.default_rng(0))
  np.testing.assert_allclose(out['label'].sum(axis=1), 1, rtol=1e-6)
  assert out['label'].min() == pytest.approx(0.02)


def _kinds_and_shares(mix, n):
  """Whether each draw was CutMix, and the share that images kept."""
  grey = np.array([0, 255], np.uint8)[:, None, None, None]
  batch = {
    'image': np.broadcast_to(grey, (2, 64, 64, 3)).copy(),
    'label': np.array([0, 1], np.int32),
  }
  rng = np.random.default_rng(0)
  kinds, shares = [], []
  for _ in range(n):
    image = mix(batch, rng)['image'][0]
    if len(np.unique(image)) > 1:
      kinds.append(True)
    elif 0 < image[0, 0, 0] < 255:
      kinds.append(False)
    shares.append(1 - image.mean() / 255)
  return np.array(kinds), np.array(shares)


def test_mixup_and_cutmix_alternate():
  kinds, _ = _kinds_and_shares(mixing.Mix(2), 600)
  # The few draws that show nothing of their kind are left out of the count.
  assert kinds.mean() == pytest.approx(0.5, abs=0.08)
  kinds, _ = _kinds_and_shares(mixing.Mix(2, cutmix_alpha=0.0), 50)
  assert not kinds.any()
  kinds, _ = _kinds_and_shares(mixing.Mix(2, mixup_alpha=0.0), 50)
  assert kinds.all()


def test_mixup_shares_have_a_beta_distribution():
  _, shares = _kinds_and_shares(mixing.Mix(2, cutmix_alpha=0.0), 2000)
  assert shares.mean() == pytest.approx(0.5, abs=0.03)
  # Variance of Beta(a, a): 1 / (4 (2 a + 1)).
  assert shares.var() == pytest.approx(1 / (4 * 2.6), rel=0.06)


def test_odd_batch_has_no_partner():
  with pytest.raises(ValueError, match=r'even number of images .* not 3'):
    mixing.Mix(5)(_batch(3), np.random.default_rng(0))


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'mixup_alpha': 0.0, 'cutmix_alpha': 0.0}, 'nor both 0'),
    ({'mixup_alpha': -1.0}, 'must not be negative'),
    ({'label_smoothing': 2.0}, 'label_smoothing = 2.0'),
    ({'cutmix_probability': 1.1}, 'cutmix_probability = 1.1'),
  ],
)
def test_bad_mix_is_named(settings, message):
  with pytest.raises(ValueError, match=message):
    mixing.Mix(5, **settings)
  with pytest.raises(
    ValueError, match=r'probability = 1.5 must be in \[0, 1\]'
  ):
    mixing.NormaliseAndErase(MEAN, STD, 1.5)


def _normalised(images):
  return (images / 255 - np.array(MEAN)) / np.array(STD)


def test_normalisation():
  erase = mixing.NormaliseAndErase(MEAN, STD, probability=0.0)
  batch = _batch()
  out = erase(batch, np.random.default_rng(0))
  assert out['image'].dtype == np.float32
  np.testing.assert_allclose(
    out['image'], _normalised(batch['image']), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(out['label'], batch['label'])


def test_erasing_has_the_published_distribution():
  images = np.zeros((1000, 48, 48, 3), np.uint8)
  erase = mixing.NormaliseAndErase(MEAN, STD)
  out = erase({'image': images}, np.random.default_rng(0))['image']
  changed = np.abs(out - _normalised(images[:1])).min(axis=-1) > 1e-5
  erased = changed.any(axis=(1, 2))
  assert erased.mean() == pytest.approx(0.25, abs=0.07)
  areas, ratios, noise = [], [], []
  for mask, image in zip(changed[erased], out[erased], strict=True):
    rows, columns = (np.flatnonzero(mask.any(axis=a)) for a in (1, 0))
    assert mask[np.ix_(rows, columns)].mean() > 0.99  # A full rectangle.
    assert rows[-1] - rows[0] + 1 == len(rows)
    areas.append(len(rows) * len(columns) / 48**2)
    ratios.append(len(rows) / len(columns))
    noise.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
  assert 0.015 < min(areas) < 0.05 and 0.28 < max(areas) < 0.36
  assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)
  assert 0.25 < min(ratios) < 0.5 and 2 < max(ratios) < 4
  assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.2)
  values = np.concatenate([x.ravel() for x in noise])
  assert values.mean() == pytest.approx(0, abs=0.02)
  assert values.std() == pytest.approx(1, abs=0.02)


def test_erasing_comes_after_mixing():
  mix = mixing.Mix(5)
  both = mixing.MixThenErase(mix, mixing.NormaliseAndErase(MEAN, STD, 0.0))
  out = both(_batch(), np.random.default_rng(3))
  mixed = mix(_batch(), np.random.default_rng(3))
  np.testing.assert_allclose(
    out['image'], _normalised(mixed['image']), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(out['label'], mixed['label'])
  assert pickle.loads(pickle.dumps(both)) == both
