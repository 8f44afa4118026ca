"""BRN: published weights, sizes, outputs, options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic import convert, models
from common import weight_conversion

CHECKPOINTS = {'coic': 'brn_coic.npz', 'baseline': 'brn_baseline.npz'}
# One program for both networks of a size, and for all its numbers of
# iterations: the outputs after each are compared.
apply = jax.jit(
  lambda model, *args: model.apply(*args, all_outputs=True), static_argnums=0
)
SMALL = {'iterations': 2, 'features': 4, 'rain_blocks': 1}
SMALL |= {'background_blocks': 1}


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.fixture
def published(shared):
  @functools.cache
  def variables(kind):
    path = shared(f'checkpoints/coic/{CHECKPOINTS[kind]}')
    return convert.from_torch('brn', weight_conversion.read_tensors(path))

  return variables


@pytest.mark.parametrize(
  ('file', 'kind', 'key', 'modulated'),
  [
    ('brn_baseline', 'baseline', 'y', False),
    ('brn_coic', 'coic', 'y_plain', False),
    ('brn_coic', 'coic', 'y_mod', True),
  ],
)
def test_published_outputs(golden, published, file, kind, key, modulated):
  arrays = golden(f'coic/{file}.npz')
  model = models.create('brn', modulated=kind == 'coic')
  z = arrays['z'] if modulated else None
  outputs = apply(model, published(kind), nhwc(arrays['x']), z)
  np.testing.assert_array_equal(outputs['restored'], outputs['backgrounds'][-1])
  for iterations in (1, 2, 4, 8):
    expected = np.moveaxis(arrays[f'{key}_after_{iterations}'], 1, -1)
    assert_close(outputs['backgrounds'][iterations - 1], expected)


def test_published_gradients(golden, published):
  # In float64: in float32, units near zero fall on the other side of their
  # ReLUs, which moves the gradient of x by 0.15 % of its scale.
  with jax.enable_x64(True):
    arrays = golden('coic/brn_coic.npz')
    model = models.create('brn', remat=True)
    x, z, cotangent, variables = jax.tree.map(
      lambda array: jnp.asarray(array, jnp.float64),
      (
        *(np.moveaxis(arrays['x'], 1, -1), arrays['z']),
        *(np.moveaxis(arrays['cot'], 1, -1), published('coic')),
      ),
    )

    @jax.jit
    def gradients(variables, x, z):
      def objective(*args):
        return (model.apply(*args) * cotangent).sum()

      return jax.grad(objective, argnums=(0, 1, 2))(variables, x, z)

    in_params, in_x, in_z = gradients(variables, x, z)
    assert_close(np.moveaxis(in_x, -1, 1), arrays['grad_x'], 2e-7)
    assert_close(in_z, arrays['grad_z'], 2e-7)
    named = convert.to_torch('brn', in_params)
    expected = {k[5:]: g for k, g in arrays.items() if k.startswith('grad/')}
    assert expected
    for name, gradient in expected.items():
      assert_close(named[name], gradient, 2e-7)


def psnr_y(restored, clean):
  weights = np.array([0.256789, 0.504129, 0.097906])
  error = 255 * (np.clip(restored, 0, 1) - clean) @ weights / 255
  return -10 * np.log10(np.square(error).mean())


@pytest.mark.parametrize('rain', ['light', 'heavy'])
def test_published_images(golden, published, rain):
  arrays = golden('coic/brn_scene.npz')
  image = arrays[f'{rain}_rainy_u8'][None] / np.float32(255)
  clean = arrays['clean_u8'] / 255

  def restored(kind, z):
    model = models.create('brn', modulated=kind == 'coic')
    restored = apply(model, published(kind), image, z)['restored'][0]
    return np.asarray(restored, np.float64)

  no_context = np.zeros((1, 128), np.float32)
  modulated = restored('coic', arrays['z_list'][:1])
  pixels = np.round(255 * np.clip(modulated, 0, 1))
  expected = arrays[f'{rain}_output_coic_z0_u8'].astype(float)
  assert np.abs(pixels - expected).max() <= 1  # A value near a half.
  assert (pixels != expected).mean() < 1e-3
  for image_restored, score in [
    (modulated, arrays[f'{rain}_score_coic'][0, 0]),
    (restored('coic', no_context), arrays[f'{rain}_score_coic_zero_z'][0]),
    (restored('coic', None), arrays[f'{rain}_score_coic_plain'][0]),
    (restored('baseline', None), arrays[f'{rain}_score_baseline'][0]),
  ]:
    assert abs(psnr_y(image_restored, clean) - score) < 0.01


@pytest.fixture(scope='module')
def small():
  """Variables of a small network, two images and their embeddings."""
  model = models.create('brn', **SMALL)
  image = jax.random.uniform(jax.random.key(1), (2, 8, 9, 3))
  z = jax.random.normal(jax.random.key(2), (2, 128)) / 11
  variables = jax.jit(model.init)(jax.random.key(0), image)
  return variables, image, z


def squares(variables, x, **options):
  model = models.create('brn', **SMALL, **options)
  return jnp.square(model.apply(variables, x)).sum()


@pytest.mark.slow
def test_rematerialised_gradient_is_the_same(small, monkeypatch):
  variables, image, _ = small

  def gradient(**options):
    function = functools.partial(squares, variables, **options)
    return jax.jit(jax.grad(function))(image)

  of_cpu = gradient()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  kept = gradient()
  for again in (of_cpu, gradient(remat=True)):
    np.testing.assert_allclose(again, kept, atol=1e-6)


@pytest.mark.parametrize(
  ('backend', 'remat', 'again'),
  [('cpu', False, True), ('tpu', False, False), ('tpu', True, True)],
)
def test_what_computes_iterations_again(
  small, monkeypatch, backend, remat, again
):
  variables, image, _ = small
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  gradient = jax.grad(functools.partial(squares, variables, remat=remat))
  program = str(jax.make_jaxpr(gradient)(image))
  assert ('checkpoint' in program or 'remat' in program) == again


def test_bfloat16_computes_and_gives_float32(small):
  variables, image, z = small
  model = models.create('brn', **SMALL, dtype=jnp.bfloat16)
  half = apply(model, variables, image, z)['restored']
  full = apply(models.create('brn', **SMALL), variables, image, z)['restored']
  assert half.dtype == jnp.float32
  assert 0 < np.abs(half - full).max() < 0.02


def test_masks_of_each_iteration_are_there(small):
  variables, image, z = small
  model = models.create('brn', **SMALL)
  state = jax.jit(
    lambda: model.apply(variables, image, z, mutable='intermediates')[1]
  )()
  (gate,) = state['intermediates']['iteration']['rain']['input']['gate']
  assert gate.shape == (2, 2, 6, 4)  # Iterations, images, rows, columns.


def test_without_modulation_it_takes_no_z():
  model = models.create('brn', **SMALL, modulated=False)
  image = jnp.zeros((1, 8, 8, 3))
  with pytest.raises(ValueError, match='modulated=False'):
    jax.eval_shape(model.init, jax.random.key(0), image, jnp.zeros((1, 128)))


@pytest.mark.parametrize(
  ('image', 'z', 'match'),
  [
    (jnp.zeros((1, 8, 8, 4)), None, r'image \[1, 8, 8, 4\] must be'),
    (jnp.zeros((1, 8, 8, 3), int), None, 'image int32.*floating'),
    (jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 64)), r'z \[1, 64\] must be'),
    (jnp.zeros((1, 8, 8, 3)), jnp.zeros((2, 128)), 'same batch size'),
  ],
)
def test_errors(image, z, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(
      models.create('brn', **SMALL).init, jax.random.key(0), image, z
    )
