import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import metrics
from trnr.losses import restoration_loss


@pytest.mark.parametrize('case', [0, 1, 2])
def test_stored_values_and_gradients(case, golden):
  stored = golden('trnr/losses.npz')
  prediction, target = (
    jnp.asarray(stored[f'{name}{case}']).transpose(0, 2, 3, 1)
    for name in ('pred', 'target')
  )
  loss, gradient = jax.value_and_grad(
    lambda x: restoration_loss(x, target).mean()
  )(prediction)
  # The window of the reference is rounded to float32.
  np.testing.assert_allclose(loss, stored[f'total_{case}'], rtol=1e-5)
  expected = stored[f'grad_total_{case}'].transpose(0, 2, 3, 1)
  # Differences of local moments lose digits in float32.
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=5e-6)
  # As users' programs are compiled: the tests' own lose a digit here.
  absolute = jax.jit(
    lambda x: restoration_loss(x, target, ssim_weight=0.0).mean(),
    compiler_options={'xla_backend_optimization_level': 3},
  )
  np.testing.assert_allclose(
    absolute(prediction), stored[f'l1_{case}'], rtol=1e-6
  )


def test_by_hand():
  rng = np.random.default_rng(0)
  target = jnp.asarray(rng.random((2, 12, 13, 3)), 'f4')
  prediction = jnp.asarray(rng.random((2, 12, 13, 3)), 'f4')
  expected = np.abs(prediction - target).mean((1, 2, 3)) + 2 * (
    1 - metrics.ssim(prediction, target)
  )
  np.testing.assert_allclose(
    restoration_loss(prediction, target, ssim_weight=2.0), expected, rtol=1e-6
  )


def test_equal_pixels_have_no_gradient():
  target = jnp.full((1, 11, 11, 1), 0.5)
  gradient = jax.grad(
    lambda x: restoration_loss(x, target, ssim_weight=0.0).sum()
  )(target)
  assert (gradient == 0).all()


def test_low_precision_is_accumulated_in_float32():
  image = jnp.ones((1, 16, 16, 3), jnp.bfloat16)
  assert restoration_loss(image, image).dtype == jnp.float32


def test_errors_name_the_arguments():
  image = jnp.zeros((1, 12, 12, 3))
  with pytest.raises(ValueError, match=r'prediction .* and target'):
    restoration_loss(image, image[:, :11])
  with pytest.raises(ValueError, match='floating'):
    restoration_loss(image, image.astype(jnp.uint8))
