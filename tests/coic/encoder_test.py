"""The encoder: reference numbers, sizes, options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic import encoder
from coic.tensor_names.encoder import RULES
from common import image_ops, weight_conversion

SMALL = encoder.Encoder(4, 8)


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def with_prefix(prefix, arrays):
  return {
    name.removeprefix(prefix): array
    for name, array in arrays.items()
    if name.startswith(prefix)
  }


def variables_of(model, tensors):
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  template = jax.eval_shape(model.init, jax.random.key(0), image)
  found, differences = weight_conversion.from_torch(tensors, template, RULES)
  assert not differences, differences
  return weight_conversion.unflatten(found)


def test_reference_in_evaluation(golden):
  arrays = golden('coic/encoder_small.npz')
  model = encoder.Encoder(6, 16)
  variables = variables_of(model, with_prefix('w/', arrays))
  encoding = jax.jit(model.apply)(variables, nhwc(arrays['x']))
  assert_close(encoding.embedding, arrays['z_eval'])
  assert_close(encoding.features, nhwc(arrays['feat_eval']))


def test_reference_in_training(golden):
  arrays = golden('coic/encoder_small.npz')
  model = encoder.Encoder(6, 16)
  variables = variables_of(model, with_prefix('w/', arrays))

  @jax.jit
  def run(params, x):
    def objective(params, x):
      encoding, state = model.apply(
        {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
      )
      value = (encoding.embedding * arrays['cot_z']).sum()
      value += (encoding.features * nhwc(arrays['cot_feat'])).sum()
      return value, (encoding, state)

    return jax.grad(objective, argnums=(0, 1), has_aux=True)(params, x)

  (in_params, in_x), (encoding, state) = run(
    variables['params'], nhwc(arrays['x'])
  )
  assert_close(encoding.embedding, arrays['z_train'])
  assert_close(encoding.features, nhwc(arrays['feat_train']))
  statistics = weight_conversion.to_torch(state, RULES)
  expected = with_prefix('bn_after/', arrays)
  assert statistics.keys() == expected.keys()
  for name, value in expected.items():
    assert_close(statistics[name], value)
  assert_close(in_x, nhwc(arrays['grad_x']), 1e-4)
  gradients = weight_conversion.to_torch({'params': in_params}, RULES)
  for name, value in with_prefix('grad/', arrays).items():
    assert_close(gradients[name], value, 1e-4)


def test_reference_of_full_size(golden, rule_filled):
  arrays = golden('coic/encoder_full.npz')
  model = encoder.Encoder()
  variables = variables_of(model, rule_filled(arrays))
  encoding = jax.jit(model.apply)(variables, nhwc(arrays['x']))
  assert_close(encoding.embedding, arrays['z'])
  assert_close(encoding.features, nhwc(arrays['feat']))


def test_sizes():
  image = jax.ShapeDtypeStruct((2, 65, 48, 3), jnp.float32)
  encoding, variables = jax.eval_shape(
    encoder.Encoder().init_with_output, jax.random.key(0), image
  )
  assert encoding.embedding.shape == (2, 128)
  assert encoding.features.shape == (2, 9, 6, 256)
  count = {
    collection: sum(x.size for x in jax.tree.leaves(tree))
    for collection, tree in variables.items()
  }
  assert count == {'params': 1_257_664, 'batch_stats': 2_688}


@pytest.fixture(scope='module')
def small():
  """Variables of a small encoder, and two images."""
  image = jax.random.uniform(jax.random.key(1), (2, 16, 24, 3))
  return jax.jit(SMALL.init)(jax.random.key(0), image), image


def test_initialisation_is_that_of_pytorch(small):
  leaves = weight_conversion.flatten(small[0]['params'])
  for path, leaf in leaves.items():
    if 'norm' in path:
      np.testing.assert_array_equal(leaf, float(path.endswith('scale')))
      continue
    kernel = leaves[path.replace('bias', 'kernel')]
    limit = np.prod(kernel.shape[:-1]) ** -0.5
    assert 0.5 * limit < np.abs(leaf).max() <= limit, path


def test_all_vectors_are_of_length_one(small):
  encoding = jax.jit(SMALL.apply)(*small)
  for vectors in encoding:
    np.testing.assert_allclose(
      jnp.square(vectors).sum(-1), jnp.ones(vectors.shape[:-1]), rtol=1e-5
    )


def test_bfloat16_computes_and_gives_float32(small):
  variables, image = small
  half = encoder.Encoder(4, 8, dtype=jnp.bfloat16)
  actual, state = jax.jit(
    lambda *args: half.apply(*args, train=True, mutable='batch_stats')
  )(variables, image)
  expected, _ = jax.jit(
    lambda *args: SMALL.apply(*args, train=True, mutable='batch_stats')
  )(variables, image)
  for ours, full in zip(actual, expected, strict=True):
    assert ours.dtype == jnp.float32
    assert 0 < np.abs(ours - full).max() < 0.05
  assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype('float32')}


def test_embed_shrinks_the_whole_image(small):
  variables, image = small
  embed = functools.partial(encoder.embed, SMALL, size=16, antialias=True)
  square = image_ops.resize_bilinear(image, 16, antialias=True)
  expected = jax.jit(SMALL.apply)(variables, square).embedding
  np.testing.assert_allclose(
    jax.jit(embed)(variables, image), expected, atol=1e-6
  )


@pytest.mark.parametrize(
  ('image', 'match'),
  [
    (jnp.zeros((1, 8, 8, 4)), r'image \[1, 8, 8, 4\] must be'),
    (jnp.zeros((8, 8, 3)), 'image .* must have 4 axes'),
    (jnp.zeros((1, 8, 8, 3), jnp.uint8), 'image uint8.*floating'),
  ],
)
def test_errors(image, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(SMALL.init, jax.random.key(0), image)
