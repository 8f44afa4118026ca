"""Standardising, resizing and blurring on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import image_ops


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, -3, -1))


@pytest.fixture(scope='module')
def images():
  return jax.random.uniform(jax.random.key(0), (2, 9, 12, 3))


def test_normalize():
  image = np.array([[[[0, 255]]]], np.uint8)
  options = {'mean': (0.25, 0.5), 'std': (0.5, 0.25)}
  expected = np.array([[[[-0.5, 2]]]])
  actual = image_ops.normalize(image, **options)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)
  assert image_ops.normalize(actual, **options) is actual


@pytest.mark.parametrize('size', [16, 64, 100, 128])
@pytest.mark.parametrize('kind', ['plain', 'antialias'])
def test_resize_reference(golden, size, kind):
  arrays = golden('coic/resize.npz')
  image = nhwc(arrays['image_u8'][None]) / np.float32(255)
  actual = image_ops.resize_bilinear(image, size, antialias=kind == 'antialias')
  expected = nhwc(arrays[f'float_{kind}_{size}'])
  np.testing.assert_allclose(actual[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ('width', 'antialias', 'expected'),
  [
    (4, False, [0, 10, 20, 30]),
    # Centres at 0.5 and 2.5; with a triangle of weights 3, 3, 1 or 1, 3, 3.
    (2, False, [5, 25]),
    (2, True, [50 / 7, 160 / 7]),
    (8, False, [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30]),
    (8, True, [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30]),
  ],
)
def test_resize_by_hand(width, antialias, expected):
  image = jnp.asarray([0, 10, 20, 30], jnp.bfloat16)[None, None, :, None]
  actual = image_ops.resize_bilinear(image, (1, width), antialias=antialias)
  assert actual.shape == (1, 1, width, 1) and actual.dtype == jnp.float32
  np.testing.assert_allclose(actual[0, 0, :, 0], expected, rtol=1e-6)


@pytest.mark.parametrize('sigma', ['0.30', '0.50', '0.70', '1.00', '1.50'])
def test_blur_reference(golden, sigma):
  arrays = golden('coic/negatives_detail.npz')
  actual = image_ops.gaussian_blur(nhwc(arrays['x']), float(sigma))
  expected = nhwc(arrays[f'blur_sigma_{sigma}'])
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_blur_by_hand(images):
  sigma = jnp.asarray([0.4, 1.5])
  actual = jax.jit(image_ops.gaussian_blur)(images, sigma)
  for image, width, blurred in zip(images, sigma, actual, strict=True):
    taps = np.exp(-np.square(np.arange(-5, 6)) / (2 * width**2))
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    padded = np.pad(image, ((5, 5), (5, 5), (0, 0)), 'reflect')
    windows = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), (0, 1))
    expected = (windows * kernel[None, None, None]).sum((3, 4))
    np.testing.assert_allclose(blurred, expected, rtol=1e-5)
    alone = image_ops.gaussian_blur(image[None], width)
    np.testing.assert_allclose(alone[0], blurred, rtol=1e-6)


def test_blur_of_bfloat16_is_float32(images):
  half = images.astype(jnp.bfloat16)
  actual = image_ops.gaussian_blur(half, 1.0)
  expected = image_ops.gaussian_blur(half.astype(jnp.float32), 1.0)
  np.testing.assert_array_equal(actual, expected)


def test_filter_by_hand():
  image = jnp.outer(jnp.arange(4.0), jnp.ones(3))[None, :, :, None]
  actual = image_ops.separable_filter(image, jnp.asarray([1.0, 0.0, -2.0]))
  # Rows: 0 - 2 * 2 and 1 - 2 * 3; then each column times 1 - 2.
  np.testing.assert_array_equal(actual[0, :, :, 0], [[4], [5]])


@pytest.mark.parametrize(
  ('image', 'sigma', 'match'),
  [
    (jnp.zeros((8, 8, 3)), 1.0, 'must have 4 axes'),
    (jnp.zeros((1, 8, 8, 3), jnp.uint8), 1.0, 'floating'),
    (jnp.zeros((2, 8, 8, 3)), jnp.ones(3), r'sigma \[3\] must be one number'),
    (jnp.zeros((2, 8, 5, 3)), 1.0, 'larger than 5 x 5'),
  ],
)
def test_errors(image, sigma, match):
  with pytest.raises(ValueError, match=match):
    image_ops.gaussian_blur(image, sigma)
  if 'axes' in match or 'floating' in match:
    with pytest.raises(ValueError, match=match):
      image_ops.resize_bilinear(image, 8)
