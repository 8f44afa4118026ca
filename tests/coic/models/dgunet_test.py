"""DGUNet: published parts, projection, recursion, constant images, names."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coic import models
from coic.models import dgunet, unet
from coic.modulation import ModulatedConv
from coic.tensor_names.dgunet import RULES, SHARED
from common import weight_conversion

# What modulated layers take from a network that is modulated by z [b, 16].
OPTIONS = {
  'embedding_features': 16,
  'mask_layout': 'published',
  'unused_generator': False,
  'dtype': None,
}
NARROW = functools.partial(
  models.create,
  'dgunet',
  features=4,
  step=2,
  extra=2,
  iterations=2,
  subspace=3,
  embedding_features=16,
)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, variables, image, z):
  return model.apply(variables, image, z, all_outputs=True)


def restoration_loss(model, params, image, target, z=None):
  stages = model.apply({'params': params}, image, z, all_outputs=True)['stages']
  return jnp.sqrt(jnp.square(stages - target[None]) + 1e-6).mean((1, 2, 3, 4))


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, params, image, target):
  """Of the loss without z, and the losses of all stages."""

  def loss(params):
    losses = restoration_loss(model, params, image, target)
    return losses.sum(), losses

  return jax.grad(loss, has_aux=True)(params)


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def random_variables(model, scale=1.0):
  """Numbers for all variables: those of `init` take long to compile."""
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  rng = np.random.default_rng(0)

  def fill(x):
    limit = scale * max(1, np.prod(x.shape[:-1])) ** -0.5
    return rng.uniform(-limit, limit, x.shape).astype(np.float32)

  return jax.tree.map(
    fill, jax.eval_shape(model.init, jax.random.key(0), image)
  )


@pytest.fixture(scope='module')
def narrow():
  """Variables of a narrow network, an image and its embedding."""
  rng = np.random.default_rng(1)
  image = rng.uniform(size=(1, 16, 24, 3)).astype(np.float32)
  z = rng.standard_normal((1, 16)).astype(np.float32) / 4
  return random_variables(NARROW()), image, z


class Level(nn.Module):
  """A level of an encoder, as the published program has it in one module."""

  layer_options: dict

  @nn.compact
  def __call__(self, x, encoded, decoded, z):
    x = unet.UNetBlock(12, True, self.layer_options, name='encoder1')(
      x, z, (encoded, decoded)
    )
    down = ModulatedConv(
      *(12, 4, 2),
      padding=1,
      use_bias=False,
      name='down1',
      **self.layer_options,
    )
    return down(x, z), x


class Attention(nn.Module):
  """A channel attention block that has its slope itself."""

  layer_options: dict

  @nn.compact
  def __call__(self, x, z):
    slope = self.param('slope', nn.initializers.zeros, (1,))
    return dgunet.ChannelAttentionBlock(self.layer_options, name='attention')(
      x, slope, z
    )


UNUSED = {**OPTIONS, 'unused_generator': True}
# Of the stored parts: network, prefixes of the names, inputs and outputs.
PARTS = {
  'merge': (
    dgunet.Merge(4, 'published', OPTIONS),
    ('iteration/merge/', 'basic.merge12.'),
    ('x', 'bridge'),
    ('y',),
  ),
  'unet': (
    Level(UNUSED),
    ('iteration/unet/', 'basic.stage2_encoder.body.{i-1}.'),
    ('x', 'enc', 'dec'),
    ('down', 'out'),
  ),
  'up': (
    unet.UpBlock(8, UNUSED),
    ('iteration/unet/decoder3/', 'basic.stage2_decoder.body.0.'),
    ('x', 'bridge'),
    ('y',),
  ),
  'cab': (
    Attention(OPTIONS),
    ('iteration/stem/', 'basic.shallow_feat2.1.'),
    ('x',),
    ('y',),
  ),
  'sam': (
    dgunet.SupervisedAttention(OPTIONS),
    ('iteration/attention/', 'basic.sam23.'),
    ('x', 'img'),
    ('feat', 'image'),
  ),
  'res': (
    dgunet.ResidualBlock(OPTIONS),
    ('iteration/step/degradation/', 'basic.phi_1.'),
    ('x',),
    ('y',),
  ),
}


@pytest.mark.parametrize('name', PARTS)
def test_published_parts(golden, name):
  network, (ours, theirs), inputs, outputs = PARTS[name]
  arrays = {
    key.removeprefix(f'{name}/'): array
    for key, array in golden('coic/dgunet_parts.npz').items()
    if key.startswith(f'{name}/') or key == 'z'
  }
  weights = {key[2:]: a for key, a in arrays.items() if key.startswith('w/')}
  rules = {'slope': 'body.1.weight'} | {
    path.removeprefix(ours): tensor.removeprefix(theirs)
    for path, tensor in RULES.items()
    if path.startswith(ours)
  }
  x = [nhwc(arrays[key]) for key in inputs]
  template = jax.eval_shape(network.init, jax.random.key(0), *x, None)
  found, differences = weight_conversion.from_torch(weights, template, rules)
  assert not differences, str(differences)
  variables = weight_conversion.unflatten(found)
  compared = 0
  for suffix, z in (('', None), ('_plain', None), ('_mod', arrays['z'])):
    keys = [f'{key}{suffix}' for key in outputs]
    if not all(key in arrays for key in keys):
      continue
    results = jax.jit(network.apply)(variables, *x, z)
    results = results if isinstance(results, tuple) else (results,)
    for key, result in zip(keys, results, strict=True):
      assert_close(result, np.moveaxis(arrays[key], 1, -1))
      compared += 1
  assert compared


def projected(values, rows, ridge=0.0):
  """The projection in float64, by the equations."""
  values, rows = np.float64(values), np.float64(rows)
  rows = rows / (1e-6 + np.abs(rows).sum(1, keepdims=True))
  gram = rows.swapaxes(1, 2) @ rows
  gram += (
    ridge
    * np.trace(gram, axis1=1, axis2=2)[:, None, None]
    * np.eye(gram.shape[-1])
  )
  return rows @ np.linalg.solve(gram, rows.swapaxes(1, 2) @ values)


def alike(difference, rows=16):
  """Values, and rows that differ by so much."""
  rng = np.random.default_rng(0)
  base = rng.standard_normal((4, 300, 1))
  noise = difference * rng.standard_normal((4, 300, rows))
  values = rng.standard_normal((4, 300, 5))
  return np.float32(values), np.float32(base + noise)


@pytest.mark.parametrize('inverse', ['regularised', 'published'])
def test_projection(inverse):
  values, rows = alike(1.0)
  project = jax.jit(functools.partial(dgunet.project, inverse=inverse))
  y = project(values, rows)
  assert_close(y, projected(values, rows), 1e-4)
  # What is in the span stays, whichever rows span it.
  assert_close(project(y, rows), y, 1e-3)
  rng = np.random.default_rng(1)
  spanned = rows @ rng.standard_normal((16, 2)).astype(np.float32)
  assert_close(project(spanned, rows[..., ::-1]), spanned, 1e-3)
  half = project(values.astype(jnp.bfloat16), rows.astype(jnp.bfloat16))
  assert half.dtype == jnp.float32
  assert_close(half, y, 0.03)


@pytest.mark.parametrize('difference', [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 0])
def test_regularised_projection_of_rows_that_are_alike(difference):
  """Solved in float32, the same equations are off by 0.1 or not a number."""
  values, rows = alike(difference)

  def objective(rows):
    y = dgunet.project(values, rows)
    return jnp.square(y).sum(), y

  gradient, y = jax.jit(jax.grad(objective, has_aux=True))(rows)
  assert_close(y, projected(values, rows, 1e-6 / 16), 3e-3)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('dead', [1, 16])
def test_regularised_projection_of_rows_that_are_zero(dead):
  values, rows = alike(1.0)
  rows[..., :dead] = 0
  y = dgunet.project(values, rows)
  expected = np.zeros_like(values)
  if dead < 16:
    expected = projected(values, rows[..., dead:])
  assert_close(y, expected, 1e-4)
  gradient = jax.grad(lambda rows: dgunet.project(values, rows).sum())(rows)
  assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_the_recursion(narrow):
  """Against the published order of things, one stage after the other."""
  variables, image, z = narrow
  params = variables['params']

  def run(network, path, *args):
    return network.apply({'params': at(path)}, *args)

  def at(path):
    return functools.reduce(
      lambda tree, key: tree[key], path.split('/'), params
    )

  def descend(path, restored):
    block = dgunet.ResidualBlock(OPTIONS)
    degraded = run(block, f'{path}/degradation', restored, z)
    gradient = run(block, f'{path}/adjoint', degraded - image, z)
    return restored - at(f'{path}/size')[0] * gradient

  def stem(path, x, slope):
    return run(dgunet.Stem(4, OPTIONS), path, x, slope, z)

  def u_net_and_attention(prefix, features, x, before):
    encoded, decoded = run(
      unet.UNet(4, 2, OPTIONS), f'{prefix}unet', features, z, before
    )
    attention = dgunet.SupervisedAttention(OPTIONS)
    features, out = run(attention, f'{prefix}attention', decoded[0], x, z)
    return out, features, list(zip(encoded, decoded, strict=True))

  @jax.jit
  def first():
    x = descend('first_step', image)
    features = stem('first_stem', x, params['stem_slope'])
    return u_net_and_attention('first_', features, x, None)

  @jax.jit
  def middle(out, features, before):
    x = descend('iteration/step', out)
    f = stem('iteration/stem', x, at('iteration/stem_slope'))
    merge = dgunet.Merge(3, 'regularised', OPTIONS)
    f = run(merge, 'iteration/merge', f, features, z)
    return u_net_and_attention('iteration/', f, x, before)

  @jax.jit
  def last(out, features):
    f = stem('last_stem', descend('last_step', out), params['stem_slope'])
    f = jnp.concatenate([f, features], axis=-1)
    f = run(ModulatedConv(6, 3, use_bias=False, **OPTIONS), 'last', f, z)
    f = run(ModulatedConv(3, 3, use_bias=False, **OPTIONS), 'output', f, z)
    return f + image

  state = first()
  expected = [state[0]]
  for _ in range(2):
    state = middle(*state)
    expected.append(state[0])
  expected.append(last(*state[:2]))
  outputs = apply(NARROW(), variables, image, z)
  assert_close(outputs['stages'], np.stack(expected[::-1]), 1e-4)
  np.testing.assert_array_equal(outputs['restored'], outputs['stages'][0])
  assert outputs['stages'].shape == (4, 1, 16, 24, 3)
  assert all(x.dtype == jnp.float32 for x in outputs.values())


@pytest.mark.slow  # Compiles for a minute.
def test_bfloat16_computes_and_gives_float32(narrow):
  variables, image, z = narrow
  half = apply(NARROW(dtype=jnp.bfloat16), variables, image, z)['restored']
  full = apply(NARROW(), variables, image, z)['restored']
  assert half.dtype == jnp.float32
  assert 0 < np.abs(half - full).max() < 0.03


@pytest.mark.slow
def test_gradients_of_constant_images_are_finite(narrow):
  variables, image, _ = narrow
  params = variables['params']
  for constant in (0.0, 1.0):
    saturated = np.full_like(image, constant)
    found, _ = gradients(NARROW(), params, saturated, saturated)
    for path, gradient in weight_conversion.flatten(found).items():
      assert np.isfinite(gradient).all(), path


@pytest.mark.slow  # Compiles for a minute.
def test_rematerialised_and_without_z(narrow):
  variables, image, z = narrow
  args = variables['params'], image, 1 - image
  ours, plain = gradients(NARROW(remat=True), *args)
  theirs, _ = gradients(NARROW(), *args)
  for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert_close(x, y, 1e-4)
  stages = np.asarray(apply(NARROW(), variables, image, z)['stages'])
  modulated = np.abs(stages - (1 - image)).mean((1, 2, 3, 4))
  assert np.abs(plain - modulated).min() > 1e-3


@pytest.mark.slow
def test_training_on_saturated_patches_stays_finite():
  """Images with rain, most of them cut at white or black, for 500 steps."""
  model = NARROW()
  image = jnp.zeros((1, 16, 16, 3))
  params = jax.jit(model.init)(jax.random.key(0), image)['params']
  tx = optax.adam(1e-3)
  rng = np.random.default_rng(0)

  @jax.jit
  def step(params, state, image, target, z):
    loss, gradient = jax.value_and_grad(
      lambda params: restoration_loss(model, params, image, target, z).sum()
    )(params)
    updates, state = tx.update(gradient, state)
    norm = optax.tree.norm(gradient)
    return optax.apply_updates(params, updates), state, loss, norm

  state, losses = tx.init(params), []
  for number in range(500):
    target = np.full((2, 16, 16, 3), number % 2, np.float32)
    target[1] += rng.normal(0, 10.0 ** -(number % 6), (16, 16, 3))
    rain = rng.uniform(0, 0.5, (2, 16, 16, 1)) * (number % 4 > 1)
    image, target = np.clip(target + rain, 0, 1), np.clip(target, 0, 1)
    z = rng.standard_normal((2, 16)) / 4
    params, state, loss, norm = step(
      params, state, *(np.float32(x) for x in (image, target, z))
    )
    assert np.isfinite(loss), number
    assert np.isfinite(norm), number
    losses.append(float(loss))
  assert np.mean(losses[-50:]) < 0.5 * np.mean(losses[:50])


def test_unused_generators_are_those_of_the_program():
  """5,256,739 parameters with those of the 1x1 layers, 307,726 of them dead."""
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  model = models.create('dgunet', unused_generators=True)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  total = sum(x.size for x in jax.tree.leaves(shapes))
  assert total == 5_256_739
  assert total - models.names()['dgunet'].modulated_parameters == 307_726


def test_published_names_go_both_ways():
  variables = random_variables(NARROW(unused_generators=True))
  tensors = weight_conversion.to_torch(variables, RULES)
  first = 'stage1_decoder.body.0.up.base_conv.conv.weight'
  assert tensors[first].shape == (10, 8, 2, 2)
  assert tensors['basic.r1'].shape == (1,)
  assert tensors['sam12.conv2.g2pa_wgen.4.bias'].shape == (3 + 4 + 1,)
  # The shared slope has one of its two names.
  ((second, name),) = SHARED.items()
  assert name in tensors
  assert second not in tensors
  found, differences = weight_conversion.from_torch(tensors, variables, RULES)
  assert not differences
  jax.tree.map(
    np.testing.assert_array_equal,
    weight_conversion.unflatten(found),
    variables,
  )


@pytest.mark.parametrize(
  ('options', 'shape', 'match'),
  [
    ({}, (1, 8, 8, 4), r'image \[1, 8, 8, 4\] must be'),
    ({}, (1, 16, 12, 3), r'image \[1, 16, 12, 3\] must be divisible by 8'),
    ({'inverse': 'pseudo'}, (1, 8, 8, 3), "inverse 'pseudo' must be one of"),
  ],
)
def test_errors(options, shape, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(NARROW(**options).init, jax.random.key(0), jnp.zeros(shape))
