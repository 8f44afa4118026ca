"""IDT: published parts, sizes, a narrow network, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic.models import idt
from coic.tensor_names import idt as names
from common import weight_conversion

# What modulated layers take from a network that is modulated by z [b, 16].
OPTIONS = {
  'embedding_features': 16,
  'mask_layout': 'published',
  'unused_generator': False,
  'dtype': None,
  'linear_init': None,
}
PART_RULES = {
  'attn_a': names.ATTENTION_RULES,
  'attn_b': names.ATTENTION_RULES,
  'leff': names.FEED_FORWARD_RULES,
  'block': names.BLOCK_RULES,
  'spatial': names.BLOCK_RULES,
}
# One level and the bottleneck: blocks take long to compile.
NARROW = functools.partial(
  idt.IDT,
  image_size=8,
  features=4,
  window_size=2,
  blocks=(1, 0, 0),
  heads=(2, 1, 1),
  embedding_features=16,
)
# These programs run once or twice: to compile them takes longest by far.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def part_of(golden, name):
  """Arrays of a part, and its weights under their published names."""
  arrays = {
    key.removeprefix(f'{name}/'): array
    for key, array in golden('coic/idt_parts.npz').items()
    if key.startswith(f'{name}/') or key == 'z'
  }
  weights = {k[2:]: a for k, a in arrays.items() if k.startswith('w/')}
  return arrays, weights


def converted(init, weights, rules, *inputs):
  """Published weights for a module, every one of which it must need."""
  template = jax.eval_shape(init, jax.random.key(0), *inputs)
  found, differences = weight_conversion.from_torch(weights, template, rules)
  assert not differences, differences
  variables = weight_conversion.unflatten(found)
  back = weight_conversion.to_torch(variables, rules)
  jax.tree.map(np.testing.assert_array_equal, back, weights)
  return variables


@pytest.mark.parametrize('name', ['attn_a', 'attn_b'])
def test_published_attention(golden, name):
  arrays, weights = part_of(golden, name)
  *_, heads, bound = arrays['cfg']
  module = idt.WindowAttention(int(heads), int(bound))
  x, source = arrays['x'][None], arrays['kv'][None]
  variables = converted(module.init, weights, PART_RULES[name], x, source)
  y = jax.jit(module.apply)(variables, x, source)[0]
  assert_close(y, arrays['y'])


def grid(tokens):
  side = int(tokens.shape[1] ** 0.5)
  return tokens.reshape(len(tokens), side, side, -1)


@pytest.mark.parametrize(
  ('name', 'module', 'options'),
  [
    ('leff', idt.LocalFeedForward(32, OPTIONS), {}),
    ('block', idt.WindowBlock(2, 8, 4, 0.1, OPTIONS), {'train': False}),
    ('spatial', idt.SpatialBlock(2, 8, 4, 0.1, OPTIONS), {'train': False}),
  ],
)
def test_published_parts(golden, name, module, options):
  arrays, weights = part_of(golden, name)
  x = grid(arrays['x'])
  init = functools.partial(module.init, z=None, **options)
  variables = converted(init, weights, PART_RULES[name], x)

  @jax.jit
  def run(variables, x, z):
    return [module.apply(variables, x, z, **options) for z in (None, z)]

  plain, modulated = run(variables, x, arrays['z'])
  assert_close(plain, grid(arrays['y_plain']))
  assert_close(modulated, grid(arrays['y_mod']))


def randomised(init, *inputs):
  """Variables with every entry, biases too, away from 0."""
  shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes
  )


def dense(params, x):
  return x @ np.float64(params['kernel']) + np.float64(params['bias'])


def test_attention_by_hand():
  """One token, head and tap at a time, on a square of 2 x 2 tokens."""
  module = idt.WindowAttention(num_heads=2, bound=2)
  x, source = np.random.default_rng(0).normal(size=(2, 1, 1, 4, 6))
  variables = randomised(module.init, x, source)
  params = variables['params']
  query, local = (
    dense(params['query'], x[0, 0]),
    dense(params['local'], x[0, 0]),
  )
  key, value = np.split(dense(params['key_value'], source[0, 0]), 2, axis=-1)
  depthwise, pointwise = params['local_depthwise'], params['local_pointwise']
  mixed = np.zeros((4, 6))
  for token in range(4):
    apart = [(token // 2 - i // 2, token % 2 - i % 2) for i in range(4)]
    for head in (0, 1):
      part = slice(3 * head, 3 * head + 3)
      scores = query[token, part] @ key[:, part].T / np.sqrt(3)
      rows = [3 * (down + 1) + right + 1 for down, right in apart]
      scores += params['relative_position_table'][np.array(rows), head]
      weights = np.exp(scores) / np.exp(scores).sum()
      mixed[token, part] = weights @ value[:, part]
    near = depthwise['bias'] + sum(
      depthwise['kernel'][1 - down, 1 - right, 0] * local[i]
      for i, (down, right) in enumerate(apart)
    )
    for head in (0, 1):
      part = slice(3 * head, 3 * head + 3)
      mixed[token, part] += near[part] @ pointwise['kernel'][0, 0, :, part]
    mixed[token] += pointwise['bias']
  y = jax.jit(module.apply)(variables, jnp.float32(x), jnp.float32(source))
  np.testing.assert_allclose(
    y[0, 0], dense(params['project'], mixed), atol=1e-5
  )


def test_spatial_block_adds_in_the_order_of_windows():
  module = idt.SpatialBlock(1, 2, 4, 0.1, OPTIONS)
  x = jnp.arange(4 * 4 * 3, dtype=jnp.float32).reshape(1, 4, 4, 3)
  init = functools.partial(module.init, z=None, train=False)
  variables = jax.tree.map(np.zeros_like, randomised(init, x))
  # The attention gives each pixel of a window its number.
  variables['params']['attention']['project']['bias'] = jnp.arange(4.0)
  added = jax.jit(module.apply, static_argnums=3)(variables, x, None, False) - x
  expected = np.tile(np.arange(4.0), 4).reshape(1, 4, 4, 1)
  np.testing.assert_allclose(added, np.broadcast_to(expected, x.shape))


def test_drop_path_rates():
  rates = idt.drop_path_rates(0.9, (3, 3, 2, 2, 1, 1, 2, 2, 3))
  # In tenths: entries 0 to 9, bottleneck, 9 to 2.
  expected = [(0, 2), (3, 5), (6, 7), (8, 9), (9, 9)]
  expected += [(9, 9), (8, 7), (6, 5), (4, 2)]
  np.testing.assert_allclose(10 * np.array(rates), expected, atol=1e-9)
  assert idt.drop_path_rates(0.1, (1, 1, 3))[-1] == (0.0, 0.0)


def test_dropped_branches_leave_the_image():
  module = idt.WindowBlock(1, 2, 1, 0.5, OPTIONS)
  x = jax.random.normal(jax.random.key(0), (16, 2, 2, 4))
  init = functools.partial(module.init, z=None, train=False)
  variables = randomised(init, x)
  rngs = {'dropout': jax.random.key(1)}
  y = jax.jit(lambda: module.apply(variables, x, None, True, rngs=rngs))()
  unchanged = (y == x).all((1, 2, 3))
  assert 0 < unchanged.sum() < 12


def test_initialisation():
  module = idt.LocalFeedForward(512, OPTIONS | {'linear_init': idt.linear_init})
  x = jnp.zeros((1, 2, 2, 64))
  params = jax.jit(module.init)(jax.random.key(0), x, None)['params']
  generator = params['depthwise']['generator']
  for linear in (params['expand'], params['project'], generator['linear1']):
    np.testing.assert_allclose(linear['kernel'].std(), 0.02, rtol=0.1)
    np.testing.assert_array_equal(linear['bias'], 0)
  assert 0.32 < params['depthwise']['kernel'].max() <= 1 / 3


def test_published_size():
  """The totals are in the registry, and tested there."""
  image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
  shapes = jax.eval_shape(idt.IDT().init, jax.random.key(0), image)
  sizes = {
    path: x.size for path, x in weight_conversion.flatten(shapes).items()
  }

  def total(part):
    return sum(size for path, size in sizes.items() if part in path)

  assert total('generator') == 1_953_169
  assert total('context') == 577_920
  assert total('norm1_key_value') == 6_080
  assert sum('generator/linear1/kernel' in path for path in sizes) == 37
  names_of = weight_conversion.torch_names(shapes, names.RULES)
  spatial = names_of['params/decoder1_block3/attention/query/kernel']
  assert spatial == 'decoderlayer_3.blocks.3.attn.qkv.to_q.weight'
  deepest = names_of['params/up4/kernel']
  assert deepest == 'upsample_0.deconv.0.base_conv.conv.weight'


@pytest.fixture(scope='module')
def narrow():
  """Variables of a narrow network, two images and their embeddings."""
  image = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
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
  assert plain.shape == modulated.shape == (2, 8, 8, 3)
  assert (np.abs(plain - modulated).max((1, 2, 3)) > 1e-4).all()
  restored, _ = one  # Images keep to themselves.
  np.testing.assert_allclose(modulated[0], restored[0], atol=1e-5)


def test_gradients_are_finite_and_reach_the_network(one):
  _, (in_params, in_z) = one
  assert (in_z != 0).all()
  for path, x in weight_conversion.flatten(in_params).items():
    assert np.isfinite(x).all(), path
    # A narrow generator can be dead.
    assert (x != 0).any() or 'generator' in path, path


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
  assert 0 < np.abs(half - full).max() < 0.03 * np.abs(full).max()


def test_names_round_trip():
  model = idt.IDT(features=4, blocks=(1,) * 9, heads=(1,) * 9)
  image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
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
    ({}, (1, 8, 9, 3), r'image \[1, 8, 9, 3\] must be \[b, 8, 8, 3\].*tiles'),
    ({'image_size': 10}, (1, 10, 10, 3), 'image_size 10 must be a multiple of'),
    ({'heads': (3, 3, 3)}, (1, 8, 8, 3), '3 heads do not divide 4 features'),
  ],
)
def test_errors(options, image, match):
  image = jax.ShapeDtypeStruct(image, jnp.float32)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(NARROW(**options).init, jax.random.key(0), image)


def test_attention_needs_squares():
  x = jnp.zeros((1, 1, 3, 4))
  with pytest.raises(ValueError, match=r'3 tokens of x .* are no square'):
    idt.WindowAttention(1, 2).init(jax.random.key(0), x, x)
