import collections
import pickle

import numpy as np
import pytest

from common.data import pair_transforms, transforms


def example(height=6, width=8):
  target = np.random.default_rng(0).integers(
    200, size=(height, width, 3), dtype=np.uint8
  )
  return {
    'input': target + np.uint8(50),
    'target': target,
    'label': np.int32(3),
  }


def test_crop():
  whole = example()
  crop = pair_transforms.PairCrop(5)
  windows = np.lib.stride_tricks.sliding_window_view(
    whole['target'], (5, 5), axis=(0, 1)
  )
  windows = np.moveaxis(windows, 2, -1)
  seen = collections.Counter()
  rng = np.random.default_rng(0)
  for _ in range(200):
    part = crop(whole, rng)
    np.testing.assert_array_equal(part['input'], part['target'] + np.uint8(50))
    assert part['label'] == 3
    (place,) = np.argwhere((windows == part['target']).all(axis=(2, 3, 4)))
    seen[tuple(place)] += 1
  assert len(seen) == 2 * 4 and min(seen.values()) > 10


def test_crop_of_the_exact_size_and_below():
  whole = example(5, 5)
  part = pair_transforms.PairCrop(5)(whole, np.random.default_rng(0))
  np.testing.assert_array_equal(part['input'], whole['input'])
  with pytest.raises(
    ValueError, match=r'6 x 8 .* too small for a crop of 7 x 7'
  ):
    pair_transforms.PairCrop(7)(example(), np.random.default_rng(0))


def test_operations_by_hand():
  image = np.array([[1, 2], [3, 4]])[..., None]
  expected = {
    'none': [1, 2, 3, 4],
    'rotate_180': [4, 3, 2, 1],
    'up_down': [3, 4, 1, 2],
    'left_right': [2, 1, 4, 3],
    'rotate_90': [2, 4, 1, 3],
    'rotate_270': [3, 1, 4, 2],
    'transpose': [1, 3, 2, 4],
    'transpose_anti': [4, 2, 3, 1],
  }
  actual = {
    name: operation(image).ravel().tolist()
    for name, operation in pair_transforms.OPERATIONS.items()
  }
  assert actual == expected


@pytest.mark.parametrize(
  'operations, shares',
  [
    (pair_transforms.FOUR_OPERATIONS, [0.25] * 4),
    (pair_transforms.EIGHT_OPERATIONS, [0.125] * 8),
    (('none', 'up_down', 'left_right', 'none'), [0.5, 0.25, 0.25]),
  ],
)
def test_symmetry(operations, shares):
  whole = example(4, 4)
  symmetry = pair_transforms.PairSymmetry(operations)
  rng = np.random.default_rng(0)
  seen = collections.Counter()
  for _ in range(800):
    changed = symmetry(whole, rng)
    np.testing.assert_array_equal(
      changed['input'], changed['target'] + np.uint8(50)
    )
    seen[changed['target'].tobytes()] += 1
  expected = {
    pair_transforms.OPERATIONS[name](whole['target']).tobytes(): share
    for name, share in zip(dict.fromkeys(operations), shares, strict=True)
  }
  assert seen.keys() == expected.keys()
  for image, share in expected.items():
    assert abs(seen[image] / 800 - share) < 0.05


@pytest.mark.parametrize('operations', [(), ('none', 'up')])
def test_unknown_operations_are_named(operations):
  with pytest.raises(ValueError, match=r'operations = .* must be some of'):
    pair_transforms.PairSymmetry(operations)


def test_whole_images_and_a_chain():
  chain = transforms.Chain(
    (
      pair_transforms.WithWholeImages(3),
      pair_transforms.PairCrop(5),
      pair_transforms.PairSymmetry(),
    )
  )
  chain = pickle.loads(pickle.dumps(chain))
  whole = example()
  result = chain(whole, np.random.default_rng(4))
  for key in ('input', 'target'):
    assert result[key].shape == (5, 5, 3)
    np.testing.assert_array_equal(
      result[f'whole_{key}'],
      pair_transforms.resize_bilinear(whole[key], 3, 3),
    )
  clean = {'target': whole['target']}
  result = chain(clean, np.random.default_rng(4))
  assert result.keys() == {'target', 'whole_target'}


def test_resize_by_hand():
  image = np.array([0, 10, 20, 30], np.uint8)[None, :, None]
  for width, antialias, expected in (
    (4, False, [0, 10, 20, 30]),
    # Centres at 0.5 and 2.5; with a triangle of weights 3, 3, 1 or 1, 3, 3, 1.
    (2, False, [5, 25]),
    (2, True, [7, 23]),
    (8, False, [0, 2, 8, 12, 18, 22, 28, 30]),
    (8, True, [0, 2, 8, 12, 18, 22, 28, 30]),
  ):
    result = pair_transforms.resize_bilinear(
      image, 1, width, antialias=antialias
    )
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[0, :, 0], expected)
    result = pair_transforms.resize_bilinear(
      image.swapaxes(0, 1), width, 3, antialias=antialias
    )
    np.testing.assert_array_equal(result[..., 0].T, [expected] * 3)


@pytest.mark.parametrize('size', [16, 64, 100, 128])
@pytest.mark.parametrize('kind', ['plain', 'antialias'])
def test_resize_matches_the_reference(golden, size, kind):
  numbers = golden('coic/resize.npz')
  image = np.moveaxis(numbers['image_u8'], 0, -1)
  result = pair_transforms.resize_bilinear(
    image, size, size, antialias=kind == 'antialias'
  )
  expected = np.moveaxis(numbers[f'u8_{kind}_{size}'], 0, -1)
  # Halves may round either way in single precision.
  difference = np.abs(result.astype(int) - expected)
  assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_noise():
  image = np.full((200, 200, 1), 250, np.uint8)
  noisy = pair_transforms.add_gaussian_noise(
    image, 25 / 255, np.random.default_rng(0)
  )
  assert noisy.dtype == np.float32 and noisy.shape == image.shape
  assert noisy.max() > 1.1
  np.testing.assert_allclose(noisy.mean(), 250 / 255, atol=2e-3)
  np.testing.assert_allclose(noisy.std(), 25 / 255, rtol=2e-2)
  state = np.random.RandomState(0)
  for _ in range(2):
    noisy = pair_transforms.add_gaussian_noise(image[:2, :2], 0.1, state)
  # The draws of the old global generator after seed 0.
  expected = 250 / 255 + 0.1 * np.random.RandomState(0).randn(8)[4:]
  np.testing.assert_allclose(noisy.ravel(), expected, rtol=1e-6)


def test_bad_noise_is_named():
  image = np.zeros((2, 2, 1), np.uint8)
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match=r'sigma = -0\.1 must not be negative'):
    pair_transforms.add_gaussian_noise(image, -0.1, rng)
  with pytest.raises(ValueError, match='image is float64, but must be uint8'):
    pair_transforms.add_gaussian_noise(image / 255, 0.1, rng)


def test_centre_crop():
  image = np.arange(7 * 10 * 3).reshape(7, 10, 3)
  np.testing.assert_array_equal(
    pair_transforms.centre_crop(image, 4), image[1:5, 3:7]
  )
  # A smaller one is cut to whole multiples.
  found = pair_transforms.centre_crop(image, 8, multiple=4)
  np.testing.assert_array_equal(found, image[1:5, 1:9])
  with pytest.raises(ValueError, match='no sides that are multiples of 16'):
    pair_transforms.centre_crop(image, 32, multiple=16)
  with pytest.raises(ValueError, match='size = 0'):
    pair_transforms.centre_crop(image, 0)
