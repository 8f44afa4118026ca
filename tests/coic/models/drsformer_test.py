"""DRSformer: published parts, sizes, a narrow network, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic.models import drsformer
from coic.models.experts import ExpertMixture
from coic.modulation import ModulatedConv
from coic.tensor_names import drsformer as names
from coic.tensor_names.modulated import modulated_layers
from common import weight_conversion

# What modulated layers take from a network.
OPTIONS = {
  'embedding_features': 16,
  'mask_layout': 'published',
  'unused_generator': True,
  'dtype': None,
}
WIDE = OPTIONS | {'embedding_features': 128}
LAYER_RULES = modulated_layers({'layer': 'body.0'})


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def part_of(golden, name):
  """Arrays of a part, and its weights under their published names."""
  stored = golden('coic/drsformer_parts.npz')
  arrays = {
    key.removeprefix(f'{name}/'): array
    for key, array in stored.items()
    if key.startswith(f'{name}/')
  }
  weights = {k[2:]: a for k, a in arrays.items() if k.startswith('w/')}
  shared = 'mefc/z' if name in ('down', 'up') else 'z'
  return {'z': stored[shared], **arrays}, weights


def converted(module, weights, rules, *inputs):
  """Published weights for a module, every one of which it must need."""
  template = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  found, differences = weight_conversion.from_torch(weights, template, rules)
  assert not differences, differences
  variables = weight_conversion.unflatten(found)
  back = weight_conversion.to_torch(variables, rules)
  jax.tree.map(np.testing.assert_array_equal, back, weights)
  return variables


def test_published_attention(golden):
  arrays, weights = part_of(golden, 'attn')
  module = drsformer.SparseAttention(2)
  x, source = nhwc(arrays['x']), nhwc(arrays['x_modulate'])
  variables = converted(module, weights, names.ATTENTION_RULES, x, source)
  assert_close(jax.jit(module.apply)(variables, x, source), nhwc(arrays['y']))


@pytest.mark.parametrize(
  ('name', 'module', 'rules'),
  [
    (
      'ffn',
      drsformer.MixedScaleFeedForward(2.66, OPTIONS),
      names.FEED_FORWARD_RULES,
    ),
    ('mefc', ExpertMixture(2, False, WIDE), names.EXPERT_RULES),
  ],
)
def test_published_parts(golden, name, module, rules):
  arrays, weights = part_of(golden, name)
  x = nhwc(arrays['x'])
  variables = converted(module, weights, rules, x, None)

  @jax.jit
  def run(variables, x, z):
    return [module.apply(variables, x, z) for z in (None, z)]

  plain, modulated = run(variables, x, arrays['z'])
  assert_close(plain, nhwc(arrays['y_plain']))
  assert_close(modulated, nhwc(arrays['y_mod']))


@pytest.mark.parametrize(
  ('name', 'features', 'shuffle'),
  [
    ('down', 8, drsformer.pixel_unshuffle),
    ('up', 32, drsformer.pixel_shuffle),
  ],
)
def test_published_sampling(golden, name, features, shuffle):
  arrays, weights = part_of(golden, name)
  module = ModulatedConv(features, 3, use_bias=False)
  rules = {
    path.replace('layer/', ''): theirs
    for path, theirs in LAYER_RULES.items()
    if '/' in path
  } | {'kernel': f'{LAYER_RULES["layer"]}.weight'}
  x = nhwc(arrays['x'])
  variables = converted(module, weights, rules, x)
  y = shuffle(module.apply(variables, x, arrays['z']))
  assert_close(y, nhwc(arrays['y_mod']))
