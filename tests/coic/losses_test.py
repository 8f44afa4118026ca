"""Losses: reference numbers and gradients, calculations by hand, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from coic import losses
from common import metrics


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, -3, -1))


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


@pytest.fixture(scope='module')
def maps():
  """Query, positive and negatives: maps of 2 x 3 places, 5 channels."""
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = ((3, 2, 3, 5), (3, 2, 3, 5), (3, 4, 2, 3, 5))
  return [
    jax.random.normal(key, shape)
    for key, shape in zip(keys, shapes, strict=True)
  ]


@pytest.fixture(scope='module')
def pair():
  keys = jax.random.split(jax.random.key(1))
  return [jax.random.uniform(key, (2, 12, 14, 3)) for key in keys]


@pytest.mark.parametrize('case', ['feat_a', 'feat_b'])
def test_contrastive_reference(golden, case):
  arrays = golden('coic/contrastive_features.npz')
  query, key, negatives = (
    nhwc(arrays[f'{case}/{name}']) for name in ('query', 'key', 'negatives')
  )
  options = {'temperature': arrays[f'{case}/temperature']}
  logits = losses.contrastive_logits(query, key, negatives, **options)
  assert_close(logits, arrays[f'{case}/logits'])
  loss, gradient = jax.value_and_grad(
    lambda x: losses.contrastive_loss(x, key, negatives, **options).mean()
  )(query)
  assert_close(loss, arrays[f'{case}/loss'])
  # Relative to its own size, which is far below 1.
  expected = nhwc(arrays[f'{case}/grad_query'])
  assert_close(gradient, expected, 1e-4 * np.abs(expected).max())


def test_contrastive_loss_by_hand(maps):
  query, positive, negatives = maps
  actual = losses.contrastive_loss(*maps, temperature=0.5)
  for i in range(3):
    logits = []
    for other in (positive[i], *negatives[i]):
      lengths = (
        np.linalg.norm(query[i], axis=-1),
        np.linalg.norm(other, axis=-1),
      )
      cosines = (query[i] * other).sum(-1) / lengths[0] / lengths[1]
      logits.append(cosines.mean() / 0.5)
    exponentials = np.exp(logits)
    expected = -np.log(exponentials[0] / exponentials.sum())
    np.testing.assert_allclose(actual[i], expected, rtol=1e-5)


def test_bounds_of_the_contrastive_loss():
  ones = jnp.ones((1, 2, 2, 3))
  for positive, negative, expected in (
    (ones, ones, np.log(6)),
    (ones, -ones, np.log(1 + 5 * np.exp(-2))),
    (-ones, ones, np.log(1 + 5 * np.exp(2))),
  ):
    negatives = jnp.repeat(negative[:, None], 5, axis=1)
    loss = losses.contrastive_loss(ones, positive, negatives)
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)


def test_contrastive_gradients(maps):
  with jax.enable_x64(True):
    maps = [jnp.asarray(x, jnp.float64) for x in maps]
    check_grads(losses.contrastive_loss, maps, 1, modes=['rev'])


def test_zero_vectors_have_no_gradient(maps):
  query, *others = maps
  query = query.at[:, 0, 1].set(0)
  gradient = jax.grad(lambda x: losses.contrastive_loss(x, *others).sum())(
    query
  )
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[:, 0, 1], 0)
  assert np.abs(gradient[:, 1]).max() < 1


def test_ssim_reference(golden):
  arrays = golden('coic/losses.npz')
  restored, target = nhwc(arrays['ssim/pred']), nhwc(arrays['ssim/target'])
  assert_close(-losses.ssim_loss(restored, target), arrays['ssim/per_image'])
  loss, gradient = jax.value_and_grad(
    lambda x: losses.ssim_loss(x, target).mean()
  )(restored)
  assert_close(-loss, arrays['ssim/value'])
  expected = nhwc(arrays['ssim/grad_pred'])
  assert_close(-gradient, expected, 1e-4 * np.abs(expected).max())


def test_dgunet_reference(golden):
  arrays = golden('coic/losses.npz')
  stages = jnp.stack([nhwc(arrays[f'dgunet/out{i}']) for i in range(3)])
  target = nhwc(arrays['dgunet/target'])
  expected = nhwc(arrays['dgunet/laplacian_target'])
  assert_close(losses.laplacian(target), expected)
  for i, restored in enumerate(stages):
    for name in ('charbonnier', 'edge'):
      loss = getattr(losses, f'{name}_loss')(restored, target)
      assert_close(loss.mean(), arrays[f'dgunet/{name}'][i])
  loss, gradient = jax.value_and_grad(
    lambda x: losses.dgunet_loss(x, target).mean()
  )(stages)
  assert_close(loss, arrays['dgunet/total'])
  expected = nhwc(arrays['dgunet/grad_out0'])
  assert_close(gradient[0], expected, 1e-4 * np.abs(expected).max())


def test_rcdnet_reference(golden):
  arrays = golden('coic/losses.npz')
  names = ('b0', 'list_b', 'list_r', 'input', 'target')
  images = [nhwc(arrays[f'rcd/{name}']) / 255 for name in names]
  loss, gradients = jax.value_and_grad(
    lambda *images: losses.rcdnet_loss(*images).mean(), argnums=(0, 1, 2)
  )(*images)
  np.testing.assert_allclose(loss, arrays['rcd/loss'], rtol=1e-5)
  for name, gradient in zip(names, gradients, strict=False):
    norms = jnp.sqrt(jnp.square(gradient / 255).sum((-4, -3, -2, -1)))
    np.testing.assert_allclose(
      norms, arrays[f'rcd/grad_norm_{name}'], rtol=1e-4
    )


def test_pixel_losses_by_hand(pair):
  restored, target = (np.asarray(x, np.float64) for x in pair)
  error = np.abs(restored - target)
  for loss, expected in (
    (losses.l1_loss, error),
    (losses.charbonnier_loss, np.sqrt(error**2 + 1e-6)),
  ):
    np.testing.assert_allclose(loss(*pair), expected.mean((1, 2, 3)), rtol=1e-5)
  expected = -metrics.ssim(*pair, padding='same')
  np.testing.assert_array_equal(losses.ssim_loss(*pair), expected)


def test_laplacian_by_hand(pair):
  taps = np.array([0.05, 0.25, 0.4, 0.25, 0.05])
  kernel = np.outer(taps, taps)[None, None, None, None]

  def blur(x):
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), 'edge')
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    return (windows * kernel).sum((-2, -1))

  image, _ = pair
  image = image[:, :9]  # An odd height.
  low = np.zeros_like(image)
  low[:, ::2, ::2] = 4 * blur(image)[:, ::2, ::2]
  expected = image - blur(low)
  np.testing.assert_allclose(losses.laplacian(image), expected, atol=1e-6)
  loss = losses.edge_loss(image, jnp.zeros_like(image))
  expected = np.sqrt(np.square(expected) + 1e-6).mean((1, 2, 3))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_dgunet_loss_by_hand(pair):
  restored, target = pair
  stages = jnp.stack([restored, 1 - restored])
  expected = sum(
    losses.charbonnier_loss(stage, target)
    + 0.5 * losses.edge_loss(stage, target)
    for stage in stages
  )
  actual = losses.dgunet_loss(stages, target, edge_weight=0.5)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_rcdnet_loss_by_hand():
  def plain(*levels):
    return jnp.broadcast_to(
      jnp.asarray(levels)[:, None, None, None, None] / 255,
      (len(levels), 1, 4, 4, 3),
    )

  image, target = plain(30.0)[0], plain(20.0)[0]
  # Errors: first 1; after the stages 2 and 3, final 4; rain layers 5 and 6.
  loss = losses.rcdnet_loss(
    plain(21.0)[0], plain(22.0, 23.0, 24.0), plain(15.0, 16.0), image, target
  )
  expected = 0.1 * (1 + 4 + 9) + 16 + 0.1 * 25 + 36
  np.testing.assert_allclose(loss, [expected], rtol=1e-4)


def test_equal_images_have_no_gradient(pair):
  image, _ = pair
  for loss in (losses.l1_loss, losses.charbonnier_loss, losses.edge_loss):
    gradient = jax.grad(lambda x, loss=loss: loss(x, image).sum())(image)
    np.testing.assert_array_equal(gradient, 0)


def test_low_precision_is_accumulated_in_float32(maps, pair):
  for loss, arrays in (
    (losses.contrastive_loss, maps),
    (losses.ssim_loss, pair),
    (losses.l1_loss, pair),
    (losses.charbonnier_loss, pair),
    (losses.edge_loss, pair),
    (lambda x, y: losses.dgunet_loss(x[None], y), pair),
    (
      lambda x, y: losses.rcdnet_loss(x, jnp.stack([x, y]), x[None], y, x),
      pair,
    ),
  ):
    half = [x.astype(jnp.bfloat16) for x in arrays]
    actual = loss(*half)
    assert actual.dtype == jnp.float32
    expected = loss(*(x.astype(jnp.float32) for x in half))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('loss', 'shapes', 'match'),
  [
    ('l1_loss', [(1, 4, 4, 3), (1, 4, 5, 3)], 'restored .* and target .* same'),
    ('charbonnier_loss', [(4, 4, 3)] * 2, 'must have 4 axes'),
    ('edge_loss', [(1, 4, 4, 3), (2, 4, 4, 3)], 'same shape'),
    ('ssim_loss', [(1, 4, 4, 3), (2, 4, 4, 3)], 'same shape'),
    ('dgunet_loss', [(1, 4, 4, 3)] * 2, 'stages .* must have 5 axes'),
    (
      'rcdnet_loss',
      [(1, 4, 4, 3), (2, 1, 4, 4, 3), (2, 1, 4, 4, 3), *[(1, 4, 4, 3)] * 2],
      r'backgrounds \[2, 1, 4, 4, 3\] must be one more than rain_layers',
    ),
    (
      'contrastive_loss',
      [(1, 4, 4, 3), (1, 4, 4, 3), (1, 5, 4, 3, 3)],
      r'negatives \[1, 5, 4, 3, 3\] must be maps of the shape of query',
    ),
    (
      'contrastive_loss',
      [(1, 4, 4, 3), (1, 4, 4, 3), (2, 5, 4, 4, 3)],
      'same batch size',
    ),
  ],
)
def test_errors(loss, shapes, match):
  with pytest.raises(ValueError, match=match):
    getattr(losses, loss)(*(jnp.zeros(shape) for shape in shapes))


def test_integers_are_refused():
  image = jnp.zeros((1, 4, 4, 3), jnp.uint8)
  with pytest.raises(ValueError, match='floating'):
    losses.l1_loss(image, image)
