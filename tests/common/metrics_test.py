import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from PIL import Image

from common import metrics

PARITY_PSNR = 1e-4
PARITY_SSIM = 1e-5


def nhwc(x, scale=1.0):
  return np.moveaxis(np.float32(x) / scale, 1, -1)


def pair(shape, seed=0, noise=0.1):
  rng = np.random.default_rng(seed)
  target = rng.random(shape)
  return np.float32(target + noise * rng.normal(size=shape)), np.float32(target)


def ssim_by_definition(prediction, target, size=11, sigma=1.5, padding='valid'):
  """One window after the other, in float64."""
  offsets = np.arange(size) - size // 2
  window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
  window = (window / window.sum())[..., None]
  pad = size // 2 if padding == 'same' else 0
  a, b = (
    np.pad(np.float64(x), ((pad, pad), (pad, pad), (0, 0)))
    for x in (prediction, target)
  )
  values = []
  for i in range(len(a) - size + 1):
    for j in range(a.shape[1] - size + 1):
      p, t = (x[i : i + size, j : j + size] for x in (a, b))
      mean = [(window * x).sum(axis=(0, 1)) for x in (p, t)]
      product = [
        (window * x * y).sum(axis=(0, 1)) for x, y in ((p, p), (t, t), (p, t))
      ]
      values.append(
        (2 * mean[0] * mean[1] + 1e-4)
        * (2 * (product[2] - mean[0] * mean[1]) + 9e-4)
        / (mean[0] ** 2 + mean[1] ** 2 + 1e-4)
        / (product[0] - mean[0] ** 2 + product[1] - mean[1] ** 2 + 9e-4)
      )
  return np.mean(values)


def test_psnr_by_hand():
  target = jnp.full((3, 2, 2, 3), 0.5)
  prediction = target.at[0].add(0.1).at[1, 0, 0, 0].add(0.6)
  # Mean squared errors of 0.01, 0.36 / 12 and 0.
  np.testing.assert_allclose(
    metrics.psnr(prediction, target), [20.0, 15.228787, np.inf], rtol=1e-6
  )


@pytest.mark.parametrize('padding', ['valid', 'same'])
@pytest.mark.parametrize(
  'shape, options',
  [
    # One block of the filter, exactly one, and several.
    ((11, 13, 3), {}),
    ((12, 42, 1), {}),
    ((14, 75, 1), {}),
    ((13, 12, 2), {'size': 7, 'sigma': 0.8}),
  ],
)
def test_ssim_by_definition(shape, options, padding):
  prediction, target = pair((2, *shape))
  names = {'size': 'window_size', 'sigma': 'sigma'}
  actual = metrics.ssim(
    prediction,
    target,
    padding=padding,
    **{names[key]: value for key, value in options.items()},
  )
  expected = [
    ssim_by_definition(p, t, padding=padding, **options)
    for p, t in zip(prediction, target, strict=True)
  ]
  np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_a_wide_window():
  # The window reaches further than a block of the filter.
  prediction, target = pair((1, 43, 45, 1))
  actual = metrics.ssim(prediction, target, window_size=41, sigma=9.0)
  expected = ssim_by_definition(prediction[0], target[0], 41, 9.0)
  np.testing.assert_allclose(actual, [expected], atol=2e-6)


@pytest.mark.parametrize('padding', ['valid', 'same'])
def test_identical_images_are_perfect(padding):
  target = jnp.asarray(pair((2, 12, 12, 3))[1]).at[0].set(1.0)

  def loss(prediction):
    return metrics.ssim(prediction, target, padding=padding).sum()

  value, gradient = jax.value_and_grad(loss)(target)
  assert value == 2.0
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('padding', ['valid', 'same'])
def test_ssim_gradients(padding):
  with jax.enable_x64(True):
    prediction, target = (jnp.asarray(x, 'f8') for x in pair((1, 12, 13, 1)))
    test_util.check_grads(
      lambda x: metrics.ssim(x, target, padding=padding),
      (prediction,),
      order=2,
    )


@pytest.mark.parametrize('level', [0.02, 0.5, 0.98])
def test_ssim_gradient_in_flat_regions(level):
  # Variances are lost to rounding here if they are computed naively.
  rng = np.random.default_rng(0)
  target = np.float32(level + 0.002 * rng.normal(size=(1, 24, 24, 1)))
  prediction = target + np.float32(0.002 * rng.normal(size=target.shape))

  def gradient(dtype):
    t = jnp.asarray(target, dtype)
    loss = jax.grad(lambda x: metrics.ssim(x, t).sum())
    return np.asarray(loss(jnp.asarray(prediction, dtype)))

  with jax.enable_x64(True):
    expected = gradient('f8')
  error = np.abs(gradient('f4') - expected).max() / np.abs(expected).max()
  assert error < 2e-4


def test_low_precision_is_scored_in_float32():
  prediction, target = (
    jnp.asarray(x, 'bfloat16') for x in pair((1, 12, 12, 3))
  )
  for metric in (metrics.psnr, metrics.ssim):
    value = metric(prediction, target)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(
      value, metric(prediction.astype('f4'), target.astype('f4'))
    )


def test_luma_by_hand():
  image = jnp.eye(3)[None, None]
  image = jnp.concatenate([image, jnp.ones((1, 1, 1, 3))], axis=2)
  levels = np.array([81.481, 144.553, 40.966, 235.0])
  for rounded, expected in ((False, levels), (True, [81, 145, 41, 235])):
    luma = metrics.rgb_to_y(image, rounded=rounded)
    assert luma.shape == (1, 1, 4, 1)
    np.testing.assert_allclose(luma[0, 0, :, 0] * 255, expected, rtol=1e-6)


def test_rounded_luma_is_exact():
  # Halves of levels among random colours, which float32 would not all get.
  numbers = np.random.default_rng(0).integers(256, size=(1, 1000, 1000, 3))
  exact = 16 + (numbers @ (65481, 128553, 24966) + 127500) // 255000
  luma = metrics.rgb_to_y(jnp.asarray(numbers / 255, 'f4'), rounded=True)
  np.testing.assert_array_equal(jnp.rint(luma[..., 0] * 255), exact)


def test_preparation_by_protocol():
  target = jnp.full((1, 12, 12, 3), 100 / 255)
  prediction = target.at[0, 0].set(1.7).at[0, 1:].add(0.6 / 255)

  def decibels(error):
    return -20 * np.log10(np.asarray(error) / 255)

  def score(**options):
    return metrics.score(prediction, target, metrics.Protocol(**options))

  cropped = {'border': 1}
  for options, error in (
    (cropped, 0.6),
    (cropped | {'quantise': 'round'}, 1.0),
    (cropped | {'quantise': 'truncate'}, 0.0),
    (cropped | {'colour': 'y'}, 0.6 * 219 / 255),
    # Levels 100 and 101 have luma 101.88 and 102.74.
    (cropped | {'colour': 'y', 'quantise': 'round', 'round_luma': True}, 1.0),
    ({'quantise': 'truncate'}, 155 / np.sqrt(12)),
    ({'quantise': 'truncate', 'clip': False}, 333 / np.sqrt(12)),
  ):
    if 'border' in options:
      options = options | {'window_size': 9}
    with np.errstate(divide='ignore'):
      expected = decibels(error)
    np.testing.assert_allclose(score(**options)['psnr'], expected, rtol=1e-4)


def test_equal_8_bit_images_have_no_error():
  image = jnp.arange(256 * 12 * 3) % 256 / 255.0
  image = image.reshape(1, 12, 256, 3)
  for name, protocol in metrics.PROTOCOLS.items():
    scores = metrics.score(image, image, protocol)
    assert scores['psnr'] == np.inf, name
    np.testing.assert_allclose(scores['ssim'], 1, rtol=1e-6, err_msg=name)


def test_pooling():
  prediction, target = pair((1, 385, 400, 1))
  scores = metrics.score(prediction, target, metrics.Protocol(pooling=True))
  small = [
    x[:, :384].clip(0, 1).reshape(1, 192, 2, 200, 2, 1).mean((2, 4))
    for x in (prediction, target)
  ]
  np.testing.assert_allclose(scores['ssim'], metrics.ssim(*small), rtol=1e-5)
  np.testing.assert_allclose(
    scores['psnr'], metrics.psnr(prediction.clip(0, 1), target), rtol=1e-6
  )


@pytest.mark.parametrize('metric', [metrics.psnr, metrics.ssim])
def test_images_must_match(metric):
  image = jnp.zeros((1, 12, 12, 3))
  for other, message in (
    (image[:, 1:], r'prediction .* and target float32\[1, 11, 12, 3\] must'),
    (image[0], r'must have 4 axes'),
    (image.astype(jnp.uint8), 'must be of a floating dtype'),
  ):
    with pytest.raises(ValueError, match=message):
      metric(image, other)


def test_bad_options_are_named():
  image = jnp.zeros((1, 10, 12, 3))
  for options, message in (
    ({}, r'\[1, 10, 12, 3\] are smaller than the window of 11 x 11'),
    ({'window_size': 4}, 'window_size = 4 must be odd'),
    ({'sigma': 0.0}, r'sigma = 0\.0 must be positive'),
    ({'padding': 'reflect'}, "padding = 'reflect' must be"),
  ):
    with pytest.raises(ValueError, match=message):
      metrics.ssim(image, image, **options)
  with pytest.raises(ValueError, match=r'\[1, 10, 12, 1\] must be RGB'):
    metrics.rgb_to_y(image[..., :1])
  for options, message in (
    ({'colour': 'lab'}, "colour = 'lab' must be one of"),
    ({'quantise': 'floor'}, "quantise = 'floor' must be one of"),
    ({'border': -1}, 'border = -1'),
    ({'colour': 'y', 'round_luma': True}, 'round_luma needs'),
    ({'quantise': 'round', 'round_luma': True}, 'round_luma needs'),
  ):
    with pytest.raises(ValueError, match=message):
      metrics.Protocol(**options)


@pytest.mark.parametrize('case', range(3))
def test_loss_and_gradient_of_trnr(golden, case):
  numbers = golden('trnr/losses.npz')
  target = nhwc(numbers[f'target{case}'])
  loss, gradient = jax.value_and_grad(
    lambda x: 1 - metrics.ssim(x, target).mean()
  )(nhwc(numbers[f'pred{case}']))
  # The stored numbers are themselves 1e-6 from double precision.
  np.testing.assert_allclose(loss, numbers[f'ssim_loss_{case}'], atol=3e-6)
  np.testing.assert_allclose(
    gradient, nhwc(numbers[f'grad_ssim_{case}']), atol=3e-6
  )


def test_loss_and_gradient_of_coic(golden):
  numbers = golden('coic/losses.npz')
  prediction, target = nhwc(numbers['ssim/pred']), nhwc(numbers['ssim/target'])

  def mean(x):
    each = metrics.ssim(x, target, padding='same')
    return each.mean(), each

  gradient, each = jax.grad(mean, has_aux=True)(prediction)
  np.testing.assert_allclose(each, numbers['ssim/per_image'], atol=5e-7)
  np.testing.assert_allclose(each.mean(), numbers['ssim/value'], atol=5e-7)
  np.testing.assert_allclose(
    gradient, nhwc(numbers['ssim/grad_pred']), atol=5e-9
  )


@pytest.mark.parametrize('case', range(3))
def test_scores_of_trnr(golden, case):
  numbers = golden('trnr/metrics.npz')
  prediction = nhwc(numbers[f'out{case}'])
  target = nhwc(numbers[f'target{case}_u8'], 255)
  scores = metrics.score(prediction, target, metrics.PROTOCOLS['trnr_rgb'])
  check(scores, numbers[f'psnr{case}'], numbers[f'ssim{case}'])
  saved = np.float32(numbers[f'saved_u8_{case}'][None]) / 255
  np.testing.assert_array_equal(
    saved, np.float32(np.floor(prediction.clip(0, 1) * 255)) / 255
  )
  truncated = metrics.PROTOCOLS['trnr_rgb_saved']
  scores = metrics.score(prediction, target, truncated)
  check(scores, metrics.psnr(saved, target), numbers[f'ssim255_saved_{case}'])
  if case < 2:
    luma = metrics.Protocol(colour='y', quantise='truncate')
    scores = metrics.score(prediction, target, luma)
    check(scores, numbers[f'y_psnr_{case}'], numbers[f'y_ssim_{case}'])
    # The saved file, scored as any other program's.
    again = metrics.score(saved, target, metrics.PROTOCOLS['y_8bit'])
    check(scores, again['psnr'], again['ssim'])


def test_batch_scores_of_trnr(golden):
  numbers = golden('trnr/metrics.npz')
  scores = metrics.score(
    nhwc(numbers['batch_pred_u8'], 255),
    nhwc(numbers['batch_target_u8'], 255),
    metrics.PROTOCOLS['trnr_rgb'],
  )
  np.testing.assert_allclose(
    scores['psnr'], numbers['batch_psnr_per_image'], atol=PARITY_PSNR
  )
  scores = {key: x.mean() for key, x in scores.items()}
  check(scores, numbers['batch_psnr'], numbers['batch_ssim'])


@pytest.mark.parametrize('case', 'abc')
def test_scores_of_coic(golden, case):
  numbers = golden('coic/metrics.npz')
  images = [
    np.float32(numbers[f'{case}/{name}_u8'][None]) / 255
    for name in ('pred', 'clean')
  ]
  for colour, protocol in (
    ('y', metrics.PROTOCOLS['coic_y']),
    ('rgb', metrics.Protocol(pooling=True)),
  ):
    check(
      metrics.score(*images, protocol),
      numbers[f'{case}/psnr_{colour}'],
      numbers[f'{case}/ssim_{colour}'],
    )
  if case == 'a':
    np.testing.assert_allclose(
      metrics.rgb_to_y(images[0])[..., 0] * 255,
      numbers['a/pred_y'][0],
      # The published weights have six decimals.
      atol=5e-4,
    )


def test_pooling_factor_of_coic(golden):
  numbers = golden('coic/metrics.npz')
  sizes, factors = numbers['pool_sizes'], numbers['pool_factor']
  assert [max(1, round(size / 256)) for size in sizes] == list(factors)


@pytest.mark.parametrize('rain', ['light', 'heavy'])
def test_scores_of_the_rainy_scene(golden, rain):
  numbers = golden('coic/brn_scene.npz')
  images = [
    np.float32(numbers[name][None]) / 255
    for name in (f'{rain}_rainy_u8', 'clean_u8')
  ]
  scores = metrics.score(*images, metrics.PROTOCOLS['coic_y'])
  check(scores, *numbers[f'{rain}_score_rainy'])


def test_scores_of_real_rain(golden, shared):
  numbers = golden('trnr/rain100l_test_metrics.npz')
  folder = shared('data/rain100L_test')
  for name in ('001', '002', '022'):
    images = [
      np.asarray(Image.open(folder / kind / f'{name}.png'))[None] / 255
      for kind in ('rain', 'norain')
    ]
    scores = metrics.score(
      *(np.float32(x) for x in images), metrics.PROTOCOLS['trnr_rgb']
    )
    check(
      scores,
      numbers['input_psnr_rgb'][int(name) - 1],
      numbers['input_ssim_rgb'][int(name) - 1],
    )


def check(scores, psnr, ssim):
  np.testing.assert_allclose(
    np.ravel(scores['psnr']), np.ravel(psnr), atol=PARITY_PSNR
  )
  np.testing.assert_allclose(
    np.ravel(scores['ssim']), np.ravel(ssim), atol=PARITY_SSIM
  )
