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
from common import weight_conversion

# What modulated layers take from a network.
OPTIONS = {
  'embedding_features': 16,
  'mask_layout': 'published',
  'unused_generator': True,
  'dtype': None,
}
WIDE = OPTIONS | {'embedding_features': 128}
# The bottom, and a level without blocks: they take long to compile.
NARROW = functools.partial(
  drsformer.DRSformer,
  features=4,
  blocks=(0, 1),
  heads=(1, 2),
  expert_steps=1,
  embedding_features=16,
)
# These programs run once or twice: to compile them takes longest by far.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


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
  rules = {'kernel': 'body.0.base_conv.conv.weight'}
  rules |= {
    f'generator/linear{i}': f'body.0.g2pa_wgen.{2 * i - 2}' for i in (1, 2, 3)
  }
  x = nhwc(arrays['x'])
  variables = converted(module, weights, rules, x)
  y = shuffle(jax.jit(module.apply)(variables, x, arrays['z']))
  assert_close(y, nhwc(arrays['y_mod']))


def randomised(init, *inputs):
  """Variables with every entry away from 0."""
  shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes
  )


def convolved(x, layer, groups=1):
  """A plain convolution that keeps the size."""
  return jax.lax.conv_general_dilated(
    *(x, layer['kernel'], (1, 1), 'SAME'),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def test_attention_by_hand():
  """One head and row at a time."""
  module = drsformer.SparseAttention(2)
  x, source = jax.random.normal(jax.random.key(0), (2, 1, 3, 4, 12))
  variables = randomised(module.init, x, source)
  params = variables['params']
  parts = (
    convolved(x, params['query']),
    convolved(source, params['key_value']),
  )
  qkv = convolved(jnp.concatenate(parts, -1), params['depthwise'], 36)
  query, key, value = np.split(np.float64(qkv[0]).reshape(12, 36), 3, axis=1)
  mixed = np.zeros((12, 12))
  for row in range(12):
    head = row // 6
    part = slice(6 * head, 6 * head + 6)
    norms = np.linalg.norm(query[:, row]) * np.linalg.norm(key[:, part], axis=0)
    scores = query[:, row] @ key[:, part] / norms
    scores *= params['temperature'][head, 0, 0]
    for i, kept in enumerate((3, 4, 4, 4), 1):
      weights = np.where(scores >= np.sort(scores)[-kept], np.exp(scores), 0)
      weights *= params[f'weight{i}'] / weights.sum()
      mixed[:, row] += value[:, part] @ weights
  expected = convolved(
    jnp.float32(mixed.reshape(1, 3, 4, 12)), params['project']
  )
  y = jax.jit(module.apply)(variables, x, source)
  np.testing.assert_allclose(y, expected, atol=1e-6)


def test_ranks_put_the_first_of_equals_first():
  scores = jnp.array([[0.5, 2.0, 0.5, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
  np.testing.assert_array_equal(
    drsformer.descending_ranks(scores), [[2, 0, 3, 4, 1], [0, 1, 2, 3, 4]]
  )


def test_cosines_of_channels_without_signal():
  query = jnp.zeros((1, 5, 1, 2)).at[..., 1].set(2.0)

  def total(query):
    return drsformer.cosine_similarities(query, query).sum()

  cosines = drsformer.cosine_similarities(query, query)
  np.testing.assert_allclose(cosines[0, 0], [[0, 0], [0, 1]], rtol=1e-6)
  assert np.isfinite(jax.grad(total)(query)).all()


def test_feed_forward_by_hand():
  options = OPTIONS | {'embedding_features': None}
  module = drsformer.MixedScaleFeedForward(1.5, options)
  x = jax.random.normal(jax.random.key(0), (1, 5, 6, 4))
  variables = randomised(module.init, x, None)
  params = variables['params']
  wide = convolved(x, params['expand'])  # 2 x 6 channels.
  small, large = (
    jax.nn.relu(convolved(wide, params[f'depthwise{size}'], 12))
    for size in (3, 5)
  )
  first = jnp.concatenate([small[..., :6], large[..., :6]], -1)
  second = jnp.concatenate([small[..., 6:], large[..., 6:]], -1)
  mixed = [convolved(first, params['mix3'], 6)]
  mixed += [convolved(second, params['mix5'], 6)]
  expected = convolved(
    jax.nn.relu(jnp.concatenate(mixed, -1)), params['project']
  )
  actual = jax.jit(module.apply)(variables, x, None)
  np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_experts_by_hand():
  """Equal gates, and only the expert that averages is listened to."""
  module = ExpertMixture(1, False, WIDE)
  x = jnp.arange(12.0).reshape(1, 2, 3, 2)
  variables = randomised(functools.partial(module.init, z=None), x)
  variables = jax.tree.map(np.zeros_like, variables)
  params = variables['params']
  params['input']['kernel'] = jnp.eye(2)[None, None]
  merge = jnp.zeros((1, 1, 16, 2)).at[0, 0, 14:].set(jnp.eye(2))
  params['step0']['merge']['kernel'] = merge
  # Of pixels that are there: 4 at the ends and 6 in the middle column.
  columns = [(0, 2), (0, 3), (1, 3)]
  mean = jnp.stack([x[:, :, a:b].mean((1, 2)) for a, b in columns], axis=1)
  y = jax.jit(module.apply)(variables, x, None)
  np.testing.assert_allclose(y, x + mean[:, None] / 8, rtol=1e-6)


def test_pixel_shuffle():
  x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  y = drsformer.pixel_unshuffle(x)
  assert y.shape == (2, 2, 3, 12)
  square = x[1, 2:4, 4:6, 2].ravel()
  np.testing.assert_array_equal(y[1, 1, 2, 8:], square)
  np.testing.assert_array_equal(drsformer.pixel_shuffle(y), x)


def test_initialisation():
  module = drsformer.SparseAttention(2)
  x = jnp.zeros((1, 2, 2, 4))
  params = jax.jit(module.init)(jax.random.key(0), x, x)['params']
  np.testing.assert_array_equal(params['temperature'], np.ones((2, 1, 1)))
  for i in (1, 2, 3, 4):
    np.testing.assert_allclose(params[f'weight{i}'], [0.2])
  assert np.abs(params['depthwise']['kernel']).max() <= 1 / 3


@pytest.mark.slow
def test_published_size():
  """The other totals are in the registry, and tested there."""
  image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
  model = drsformer.DRSformer(unused_generators=True)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  sizes = {
    path: x.size for path, x in weight_conversion.flatten(shapes).items()
  }
  generators = [path for path in sizes if 'generator' in path]
  dead = [path for path in generators if 'separable1' in path]
  assert sum(sizes.values()) == 47_794_309
  assert sum(sizes[path] for path in generators) == 13_208_261
  assert sum(sizes[path] for path in dead) == 36_584
  # Six tensors each.
  assert (len(generators), len(generators) - len(dead)) == (6 * 256, 6 * 240)
  names_of = weight_conversion.torch_names(shapes, names.RULES)
  widest = names_of['params/bottom_block7/feed_forward/project/kernel']
  assert widest == 'latent.7.ffn.project_out.weight'
  up = names_of['params/up3/kernel']
  assert up == 'up4_3.body.0.base_conv.conv.weight'


@pytest.fixture(scope='module')
def narrow():
  """Variables of a narrow network, two images and their embeddings."""
  image = jax.random.uniform(jax.random.key(1), (2, 6, 8, 3))
  z = jax.random.normal(jax.random.key(2), (2, 16))
  return randomised(NARROW().init, image), image, z


@functools.partial(jit, static_argnums=0)
def value_and_gradients(model, variables, image, z):
  def objective(variables, z):
    restored = model.apply(variables, image, z)
    return jnp.square(restored - 0.5).sum(), restored

  grad = jax.grad(objective, argnums=(0, 1), has_aux=True)
  gradients, restored = grad(variables, z)
  return restored, gradients


@pytest.fixture(scope='module')
def one(narrow):
  """The network on the first image alone: restored image and gradients."""
  variables, image, z = narrow
  return value_and_gradients(NARROW(), variables, image[:1], z[:1])


def test_outputs(narrow, one):
  @jit
  def run(variables, image, z):
    return [NARROW().apply(variables, image, z) for z in (None, z)]

  plain, modulated = run(*narrow)
  assert plain.shape == modulated.shape == (2, 6, 8, 3)
  assert (np.abs(plain - modulated).max((1, 2, 3)) > 1e-6).all()
  restored, _ = one  # Images keep to themselves.
  np.testing.assert_allclose(modulated[0], restored[0], atol=1e-5)


def test_gradients_are_finite(narrow, one):
  variables, _, z = narrow
  _, (in_params, in_z) = one
  assert (in_z != 0).any()
  for path, x in weight_conversion.flatten(in_params).items():
    assert np.isfinite(x).all(), path
  black = jnp.zeros((1, 6, 8, 3))
  _, gradients = value_and_gradients(NARROW(), variables, black, z[:1])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_rematerialised_gradient_is_the_same(narrow, one):
  variables, image, z = narrow
  actual = value_and_gradients(NARROW(remat=True), variables, image[:1], z[:1])
  jax.tree.map(assert_close, actual, one)


def test_bfloat16_computes_and_gives_float32(narrow, one):
  variables, image, z = narrow
  model = NARROW(dtype=jnp.bfloat16)
  half = jit(model.apply, static_argnames='all_outputs')(
    variables, image[:1], z[:1], all_outputs=True
  )['restored']
  full, _ = one
  assert half.dtype == jnp.float32
  assert np.abs(half - full).max() < 0.03 * np.abs(full).max()


def test_names_round_trip():
  model = drsformer.DRSformer(
    features=8, blocks=(1,) * 4, expert_steps=1, unused_generators=True
  )
  image = jax.ShapeDtypeStruct((1, 8, 16, 3), jnp.float32)
  variables = randomised(model.init, image)
  named = weight_conversion.to_torch(variables, names.RULES)
  found, differences = weight_conversion.from_torch(
    named, variables, names.RULES
  )
  assert not differences, differences
  found = weight_conversion.unflatten(found)
  jax.tree.map(np.testing.assert_array_equal, found, variables)


@pytest.mark.parametrize(
  ('options', 'image', 'match'),
  [
    ({}, (1, 8, 9, 3), r'image \[1, 8, 9, 3\] must be divisible by 2'),
    (
      {'blocks': (1,) * 4, 'heads': (1,) * 4},
      (1, 12, 8, 3),
      r'image \[1, 12, 8, 3\] must be divisible by 8',
    ),
    ({'heads': (1, 1, 2)}, (1, 8, 8, 3), 'must be of as many levels'),
    ({'heads': (1, 8)}, (1, 8, 8, 3), '8 heads do not divide 8 features into'),
  ],
)
def test_errors(options, image, match):
  image = jax.ShapeDtypeStruct(image, jnp.float32)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(NARROW(**options).init, jax.random.key(0), image)
