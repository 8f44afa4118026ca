"""RCDNet: published parts, the recursion, statistics, options, names."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic import models, rain_kernels
from coic.models import rcdnet
from coic.tensor_names.rcdnet import RULES
from common import layers, weight_conversion

# What modulated layers take from a network that is modulated by z [b, 16].
OPTIONS = {
  'embedding_features': 16,
  'mask_layout': 'published',
  'unused_generator': False,
  'dtype': None,
}
NARROW = functools.partial(
  models.create,
  'rcdnet',
  stages=3,
  maps=4,
  extra_features=2,
  blocks=1,
  kernel_size=3,
  embedding_features=16,
)
# Our and their prefix of the names of the stored parts.
PARTS = {
  'm': ('stages/stage{s}/map_network/', 'proxNet_M_S.{s-1}.'),
  'b': ('first_network/', 'proxNet_B_0.'),
}
# Parameters of a network outside of its proximal networks.
OTHERS = {
  'background_steps': (3, 1),
  'carried': {'kernel': (3, 3, 3, 2)},
  'dictionary': {'kernel': (3, 3, 4, 3)},
  'first_dictionary': {'kernel': (3, 3, 4, 3)},
  'map_steps': (2, 1),
  'rain_threshold': (1,),
}


@functools.partial(jax.jit, static_argnums=0)
def apply(model, variables, image, z):
  return model.apply(variables, image, z, all_outputs=True)


@functools.partial(jax.jit, static_argnums=0)
def train(model, variables, image, z):
  """Gradients of a loss of all outputs, and batch statistics."""

  def loss(params):
    outputs, state = model.apply(
      {**variables, 'params': params},
      *(image, z),
      train=True,
      all_outputs=True,
      mutable=['batch_stats'],
    )
    return sum(jnp.square(x).mean() for x in outputs.values()), state

  return jax.grad(loss, has_aux=True)(variables['params'])


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def random_variables(model):
  """Numbers for all variables: those of `init` take long to compile."""
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  rng = np.random.default_rng(0)

  def fill(path, x):
    if path[-1].key in ('scale', 'var'):
      values = rng.uniform(0.5, 1.5, x.shape)
    else:
      values = 0.1 * rng.standard_normal(x.shape)
    return values.astype(np.float32)

  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture(scope='module')
def narrow():
  """Variables of a narrow network, two images and their embeddings."""
  rng = np.random.default_rng(1)
  image = rng.uniform(size=(2, 7, 9, 3)).astype(np.float32)
  z = rng.standard_normal((2, 16)).astype(np.float32) / 4
  return random_variables(NARROW()), image, z


@pytest.fixture
def part(golden):
  """Arrays of a stored part, its rules, and a network with its variables."""

  def read(name, train=False):
    arrays = {
      key.removeprefix(f'{name}/'): array
      for key, array in golden('coic/rcdnet_parts.npz').items()
      if key.startswith(f'{name}/') or key == 'z'
    }
    ours, theirs = PARTS[name]
    rules = {
      path.removeprefix(ours): tensor.removeprefix(theirs)
      for path, tensor in RULES.items()
      if path.startswith(ours)
    }
    network = rcdnet.ProximalNetwork(2, name == 'm', train, None, OPTIONS)
    x = nhwc(arrays['x'])
    found, differences = weight_conversion.from_torch(
      {key[2:]: a for key, a in arrays.items() if key.startswith('w/')},
      jax.eval_shape(network.init, jax.random.key(0), x, None),
      rules,
    )
    assert not differences, str(differences)
    return arrays, rules, network, weight_conversion.unflatten(found)

  return read


@pytest.mark.parametrize('name', ['m', 'b'])
def test_published_proximal_networks(part, name):
  arrays, _, network, variables = part(name)
  x = nhwc(arrays['x'])
  z = jnp.asarray(arrays['z'][: len(x)])
  run = jax.jit(network.apply)
  for key, context in (('eval_plain', None), ('eval_mod', z)):
    expected = np.moveaxis(arrays[key], 1, -1)
    assert_close(run(variables, x, context), expected)


def test_published_training_mode(part):
  arrays, rules, network, variables = part('m', train=True)
  run = jax.jit(functools.partial(network.apply, mutable=['batch_stats']))
  y, state = run(variables, nhwc(arrays['x']), jnp.asarray(arrays['z']))
  assert_close(y, np.moveaxis(arrays['train_mod'], 1, -1))
  after = weight_conversion.to_torch(state, rules)
  expected = {
    key.removeprefix('bn_after/'): array
    for key, array in arrays.items()
    if key.startswith('bn_after/')
  }
  assert after.keys() == expected.keys()
  for name, statistic in expected.items():
    assert_close(after[name], statistic)


def test_proximal_network_by_hand():
  """Without blocks it is the proximal operator of an L1 norm, cut at zero."""
  network = rcdnet.ProximalNetwork(0, True, False, None, OPTIONS)
  x = jnp.asarray([-1.0, 0.25, 0.75, 2.0]).reshape(1, 2, 2, 1)
  variables = network.init(jax.random.key(0), x, None)
  y = network.apply(variables, x, None)
  np.testing.assert_array_equal(y.ravel(), [0, 0, 0.25, 1.5])


@pytest.mark.parametrize('size', [3, 9])
def test_operators_are_adjoint(size):
  rng = np.random.default_rng(0)
  dictionary = jnp.asarray(rng.standard_normal((size, size, 5, 3)), jnp.float32)
  maps = jnp.asarray(rng.standard_normal((2, 8, 11, 5)), jnp.float32)
  rain = jnp.asarray(rng.standard_normal((2, 8, 11, 3)), jnp.float32)
  left = jnp.vdot(rcdnet.synthesise(maps, dictionary), rain)
  right = jnp.vdot(maps, rcdnet.adjoint(rain, dictionary))
  np.testing.assert_allclose(left, right, rtol=1e-4)


def test_a_map_places_its_kernel():
  """A convolution as PyTorch has it: the kernel appears turned around."""
  dictionary = jnp.arange(54, dtype=jnp.float32).reshape(3, 3, 2, 3)
  maps = jnp.zeros((1, 5, 5, 2)).at[0, 1, 3, 1].set(2)
  rain = rcdnet.synthesise(maps, dictionary)
  expected = np.zeros((5, 5, 3))
  expected[0:3, 2:5] = 2 * dictionary[::-1, ::-1, 1]
  np.testing.assert_array_equal(rain[0], expected)


def test_the_recursion(narrow):
  """Against the published order of things, one stage after the other."""
  variables, image, z = narrow
  params = variables['params']
  shapes = {name: jax.tree.map(np.shape, params[name]) for name in OTHERS}
  assert shapes == OTHERS

  def run(name, x):
    *folders, network = name.split('/')
    inside = {
      collection: functools.reduce(
        lambda tree, key: tree[key], [*folders, network], tree
      )
      for collection, tree in variables.items()
    }
    return rcdnet.ProximalNetwork(
      1, network == 'map_network', False, None, OPTIONS
    ).apply(inside, x, z)

  def join(*x):
    return jnp.concatenate(x, axis=-1)

  @jax.jit
  def published(x):
    first, dictionary = (
      params[name]['kernel'] / 10 for name in ('first_dictionary', 'dictionary')
    )
    carried = layers.convolution(x, params['carried']['kernel'], padding=1)
    bz = run('first_network', join(x, carried))
    b0 = b = bz[..., :3]
    m = rcdnet.adjoint(nn.relu(x - b - params['rain_threshold'][0]), first)
    backgrounds, rains = [], []
    for s in range(3):
      if s:
        step = params['map_steps'][s - 1, 0] / 10
        m = m - step * rcdnet.adjoint(rains[-1] - (x - b), dictionary)
      m = run(f'stages/stage{s + 1}/map_network', m)
      rains.append(rcdnet.synthesise(m, dictionary))
      step = params['background_steps'][s, 0] / 10
      b = (1 - step) * b + step * (x - rains[-1])
      bz = run(f'stages/stage{s + 1}/background_network', join(b, bz[..., 3:]))
      b = bz[..., :3]
      backgrounds.append(b)
    backgrounds.append(run('last_network', bz)[..., :3])
    return b0, jnp.stack(backgrounds), jnp.stack(rains)

  outputs = apply(NARROW(), variables, image, z)
  b0, backgrounds, rains = published(255 * image)
  assert_close(255 * outputs['first_background'], b0)
  assert_close(255 * outputs['backgrounds'], backgrounds)
  assert_close(255 * outputs['rain_layers'], rains)
  np.testing.assert_array_equal(outputs['restored'], outputs['backgrounds'][-1])
  assert all(x.dtype == jnp.float32 for x in outputs.values())


def test_without_z_it_is_another_network(narrow):
  variables, image, z = narrow
  plain = apply(NARROW(), variables, image, None)['restored']
  assert np.abs(plain - apply(NARROW(), variables, image, z)['restored']).max()
  # The first of two images does not depend on the second.
  other = np.stack([image[0], 1 - image[1]])
  again = apply(NARROW(), variables, other, None)['restored']
  np.testing.assert_array_equal(again[0], plain[0])


@pytest.mark.slow
def test_training_moves_everything_and_rematerialised_alike(narrow):
  variables, *inputs = narrow
  image, z = (x[:1] for x in inputs)  # Half as long to compile.
  gradients, state = train(NARROW(), variables, image, z)
  for path, gradient in weight_conversion.flatten(gradients).items():
    assert np.isfinite(gradient).all(), path
    # A bias before a batch normalisation changes nothing.
    if 'conv' not in path or path.endswith('kernel'):
      assert np.abs(gradient).max() > 0, path
  for path, new in weight_conversion.flatten(state['batch_stats']).items():
    old = weight_conversion.flatten(variables['batch_stats'])[path]
    assert np.abs(new - old).min() > 0, path
  again, _ = train(NARROW(remat=True), variables, image, z)
  for ours, theirs in zip(
    jax.tree.leaves(again), jax.tree.leaves(gradients), strict=True
  ):
    assert_close(ours, theirs, 1e-5)


def test_statistics_over_devices_are_those_of_the_whole_batch(narrow):
  variables, image, _ = narrow

  def run(image, axis_name=None):
    return NARROW(axis_name=axis_name).apply(
      variables, image, train=True, mutable=['batch_stats']
    )

  whole, state = jax.jit(run)(image)
  shares, states = jax.jit(
    jax.vmap(lambda x: run(x, 'batch'), axis_name='batch')
  )(image[:, None])
  assert_close(shares[:, 0], whole, 1e-4)
  for ours, theirs in zip(
    jax.tree.leaves(states), jax.tree.leaves(state), strict=True
  ):
    assert_close(ours[0], theirs, 1e-4)


def test_bfloat16_computes_and_gives_float32(narrow):
  variables, image, z = narrow
  half = apply(NARROW(dtype=jnp.bfloat16), variables, image, z)['restored']
  full = apply(NARROW(), variables, image, z)['restored']
  assert half.dtype == jnp.float32
  assert 0 < np.abs(half - full).max() < 0.02 * np.abs(full).max()


def test_masks_of_each_stage_are_there(narrow):
  variables, image, z = narrow
  _, state = jax.eval_shape(
    lambda: NARROW().apply(variables, image, z, mutable='intermediates')
  )
  layer = state['intermediates']['stages']['map_network']['block1_conv1']
  assert layer['gate'][0].shape == (3, 2, 4, 4)  # Stages, images, channels.


def test_initialisation():
  model = NARROW(modulated=False, stages=2)
  image = jnp.zeros((1, 8, 8, 3))
  params = jax.jit(model.init)(jax.random.key(0), image)['params']
  rendered = rain_kernels.rendered_kernels(4, 3)
  for name in ('first_dictionary', 'dictionary'):
    np.testing.assert_array_equal(params[name]['kernel'], rendered)
  np.testing.assert_allclose(params['carried']['kernel'], 1 / 9, rtol=1e-6)
  np.testing.assert_array_equal(params['map_steps'], [[1]])
  np.testing.assert_array_equal(params['background_steps'], [[5], [5]])
  np.testing.assert_array_equal(params['rain_threshold'], [1])
  # Stages have weights of their own, within the limit of their fan-in.
  first, second = (
    params['stages'][f'stage{s}']['map_network']['block1_conv1']['kernel']
    for s in (1, 2)
  )
  assert np.abs(first - second).max() > 0.1
  assert max(np.abs(first).max(), np.abs(second).max()) < 1 / 6


def test_given_dictionary():
  kernels = rain_kernels.rendered_kernels(4, 3)[::-1]
  model = NARROW(
    modulated=False,
    blocks=0,
    dictionary_init=rain_kernels.given_dictionary(kernels),
  )
  variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  for name in ('first_dictionary', 'dictionary'):
    np.testing.assert_array_equal(variables['params'][name]['kernel'], kernels)


def test_published_names_go_both_ways():
  variables = random_variables(NARROW())
  tensors = weight_conversion.to_torch(variables, RULES)
  assert tensors['c'].shape == tensors['c0'].shape == (3, 4, 3, 3)
  assert tensors['cz'].shape == (2, 3, 3, 3)
  assert tensors['proxNet_M_S.2.tau'].shape == (1, 4, 1, 1)
  assert tensors['m_step'].shape == (2, 1)
  assert 'proxNet_B_L.layer.0.conv2.g2pa_wgen.4.weight' in tensors
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
    ({'kernel_size': 4}, (1, 8, 8, 3), 'kernel_size = 4 odd'),
    ({'stages': 0}, (1, 8, 8, 3), 'stages = 0 must be positive'),
    (
      {
        'dictionary_init': rain_kernels.given_dictionary(np.zeros((9, 9, 4, 3)))
      },
      (1, 8, 8, 3),
      r'\[9, 9, 4, 3\] must be \[3, 3, 4, 3\]',
    ),
  ],
)
def test_errors(options, shape, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(NARROW(**options).init, jax.random.key(0), jnp.zeros(shape))
