"""Negatives: reference numbers, the bank, draws, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic import negatives
from common import distributed, image_ops, steps

AXIS = distributed.AXIS_NAME


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, -3, -1))


def batches(count, seed=0):
  """Rainy and clean batches of four small images; brighter in later ones."""
  clean, rain = np.random.default_rng(seed).random((2, count, 4, 6, 7, 3), 'f4')
  return [(c + 0.3 * r, c) for c, r in zip(clean, rain, strict=True)]


def chosen(image, target, layers):
  """The negative of each image, searched in NumPy."""
  result = []
  for x, y in zip(image, target, strict=True):
    distances = [np.abs(x - y - layer).sum() for layer in layers]
    result.append(np.clip(y + layers[int(np.argmax(distances))], 0, 1))
  return np.stack(result)


@pytest.mark.parametrize('kind', ['batch', 'bank'])
def test_rain_reference(golden, kind):
  arrays = golden('coic/negatives_rain.npz')
  bank = None
  if kind == 'bank':
    bank = negatives.RainBank.empty(4 * arrays['bank_batches'], (16, 16, 3))
  for step in range(4):
    image, target, expected = (
      nhwc(arrays[f'step{step}/{name}'])
      for name in ('input', 'target', f'negative_{kind}')
    )
    actual, bank = negatives.rain_aware_negative(image, target, bank)
    np.testing.assert_allclose(actual, expected[:, 0], rtol=0, atol=1e-6)


def test_the_bank_keeps_the_last_batches():
  bank = negatives.RainBank.empty(8, (6, 7, 3))
  layers = np.zeros((0, 6, 7, 3), 'f4')
  for image, target in batches(4):
    layers = np.concatenate([layers, image - target])[-8:]
    actual, bank = negatives.rain_aware_negative(image, target, bank)
    expected = chosen(image, target, layers)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    assert bank.count == len(layers)
    np.testing.assert_array_equal(bank.layers[-len(layers) :], layers)


def test_the_first_of_equal_layers_is_taken():
  rain = np.zeros((4, 6, 7, 3), 'f4')
  rain[1, 0, 0, 0] = rain[2, 1, 1, 1] = 0.5
  target = np.full_like(rain, 0.25)
  negative, bank = negatives.rain_aware_negative(target + rain, target)
  assert bank is None
  expected = target + rain[[1, 2, 1, 1]]
  np.testing.assert_array_equal(negative, expected)


def test_no_gradients_and_float32():
  image, target = (jnp.asarray(x, jnp.bfloat16) for x in batches(1)[0])

  def total(image):
    return negatives.rain_aware_negative(image, target)[0].sum()

  value, gradient = jax.value_and_grad(total)(image)
  assert value.dtype == jnp.float32
  assert not np.any(gradient)


@pytest.mark.parametrize('parallelism', distributed.PARALLELISMS)
def test_on_two_devices(parallelism):
  mesh = distributed.make_mesh(jax.devices()[:2])

  def step(bank, batch):
    own, _ = negatives.rain_aware_negative(*batch)
    common, bank = negatives.rain_aware_negative(*batch, bank, axis_name=AXIS)
    # In the order of the devices, the same on each.
    return bank, distributed.all_rows(jnp.stack([own, common], 1), AXIS)

  mapped = steps.map_step(step, mesh, parallelism=parallelism)
  bank = distributed.replicate(negatives.RainBank.empty(8, (6, 7, 3)), mesh)
  layers = np.zeros((0, 6, 7, 3), 'f4')
  for batch in batches(2):
    bank, found = mapped(
      bank, distributed.shard_batch(batch, mesh, parallelism)
    )
    own, common = found[:, 0], found[:, 1]
    image, target = batch
    layers = np.concatenate([layers, image - target])
    np.testing.assert_allclose(
      common, chosen(image, target, layers), rtol=0, atol=1e-6
    )
    halves = [
      chosen(image[half], target[half], (image - target)[half])
      for half in (slice(2), slice(2, 4))
    ]
    np.testing.assert_allclose(own, np.concatenate(halves), rtol=0, atol=1e-6)
  np.testing.assert_array_equal(bank.layers, layers)


def test_detail_reference(golden):
  arrays = golden('coic/negatives_detail.npz')
  blurred = image_ops.gaussian_blur(
    nhwc(arrays['batch_target']), arrays['batch_sigma']
  )
  flips = [arrays['batch_flip_lr'], arrays['batch_flip_ud']]
  for axis, flipped in zip((2, 1), flips, strict=True):
    blurred = jnp.flip(blurred, axis) if flipped else blurred
  for expected in nhwc(arrays['batch_detail_negatives']).swapaxes(0, 1):
    np.testing.assert_allclose(blurred, expected, rtol=0, atol=1e-5)


def flip_of(flipped, image):
  """Axes (rows, columns) along which an image was flipped."""
  for axes in ((), (0,), (1,), (0, 1)):
    if np.array_equal(np.flip(image, axes), flipped):
      return axes
  raise AssertionError('not a flip')


@pytest.mark.parametrize('draws', ['independent', 'shared'])
def test_flips(draws):
  image = np.random.default_rng(0).random((4, 6, 7, 3), 'f4')
  seen = []
  for i in range(30):
    flipped = negatives.random_flips(jax.random.key(i), image, draws=draws)
    seen.append([flip_of(*pair) for pair in zip(flipped, image, strict=True)])
  assert len({axes for batch in seen for axes in batch}) == 4
  assert all(len(set(batch)) == 1 for batch in seen) == (draws == 'shared')


def sigma_of(negative, image):
  """The sigma that fits a blurred and flipped image best, and how well."""
  sigmas = np.linspace(0.3, 1.5, 121, dtype='f4')
  images = jnp.repeat(image[None], len(sigmas), axis=0)
  blurred = np.asarray(image_ops.gaussian_blur(images, sigmas))
  errors = [
    np.abs(np.flip(blurred, axes) - negative).max((1, 2, 3))
    for axes in ((), (1,), (2,), (1, 2))
  ]
  best = np.min(errors, axis=0)
  return sigmas[best.argmin()], best.min()


@pytest.mark.parametrize('draws', ['independent', 'shared'])
def test_detail_aware_negatives(draws):
  target = np.random.default_rng(0).random((2, 12, 13, 3), 'f4')
  actual = negatives.detail_aware_negatives(
    jax.random.key(0), target, count=3, draws=draws
  )
  assert actual.shape == (2, 3, 12, 13, 3)
  sigmas = []
  for image, own in zip(target, actual, strict=True):
    for negative in own:
      sigma, error = sigma_of(np.asarray(negative), image)
      assert error < 0.02
      sigmas.append(float(sigma))
  assert len(set(sigmas)) == (1 if draws == 'shared' else 6), sigmas
  copies = (actual == actual[:, :1]).all()
  assert copies == (draws == 'shared')


def test_draws_cover_the_range_of_sigma():
  # The centre of a blurred point is the square of the kernel's largest tap.
  point = np.zeros((50, 11, 11, 1), 'f4')
  point[:, 5, 5] = 1
  blurred = negatives.detail_aware_negatives(jax.random.key(1), point)
  offsets = np.square(np.arange(-5, 6))
  low, high = (
    1 / np.exp(-offsets / (2 * sigma**2)).sum() ** 2 for sigma in (1.5, 0.3)
  )
  centres = blurred[:, :, 5, 5, 0]
  assert low < centres.min() < low + 0.01
  assert high - 0.01 < centres.max() < high


def test_low_precision_becomes_float32():
  target = jnp.ones((1, 8, 8, 3), jnp.bfloat16)
  blurred = negatives.detail_aware_negatives(jax.random.key(0), target, count=1)
  assert blurred.dtype == jnp.float32
  np.testing.assert_allclose(blurred, 1, rtol=1e-6)


@pytest.mark.parametrize(
  ('call', 'match'),
  [
    (lambda x: negatives.rain_aware_negative(x, x[:1]), 'same shape'),
    (
      lambda x: negatives.rain_aware_negative(
        x, x, negatives.RainBank.empty(5, (8, 8, 3))
      ),
      r'bank \[5, 8, 8, 3\] .* not \[2, 8, 8, 3\]',
    ),
    (
      lambda x: negatives.RainBank.empty(4, (8, 6, 3)).append(x),
      r'bank \[4, 8, 6, 3\] .* not \[2, 8, 8, 3\]',
    ),
    (
      lambda x: negatives.detail_aware_negatives(
        jax.random.key(0), x, draws='batch'
      ),
      "draws = 'batch' must be",
    ),
    (
      lambda x: negatives.detail_aware_negatives(jax.random.key(0), x, count=0),
      'count = 0 must be positive',
    ),
    (
      lambda x: negatives.random_flips(jax.random.key(0), x[0]),
      'must have 4 axes',
    ),
  ],
)
def test_errors(call, match):
  with pytest.raises(ValueError, match=match):
    call(jnp.zeros((2, 8, 8, 3)))
