"""What every family of networks must do, on its smallest members."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import weight_conversion
from rsdjax import models

NUM_CLASSES = 10
# A short member of each family and the side of its images.
SMALL = {
  'resnet20': (8, {'depths': (1, 1, 1)}),
  'resnet50': (32, {'depths': (1, 2, 1, 1), 'width': 8}),
  'mobilenetv2_100': (
    8,
    {
      'groups': (
        (1, 8, 1, 1),
        (6, 8, 1, 2),
        (6, 8, 2, 1),
        (6, 16, 1, 1),
        (6, 16, 1, 1),
        (6, 16, 1, 1),
        (6, 16, 1, 1),
      )
    },
  ),
  'convnext_tiny': (32, {'depths': (1, 1, 2, 1), 'width': 8}),
  'vit_tiny_patch4_32': (8, {'depth': 2, 'width': 24}),
  'swin_pico_patch4_window7_224': (
    64,
    {'window_size': 4, 'depths': (2, 1, 1, 1), 'width': 16},
  ),
  'mixer_tiny_patch4_32': (8, {'depth': 2, 'width': 24}),
  'resmlp_tiny_patch4_32': (8, {'depth': 2, 'width': 24}),
}
family = pytest.mark.parametrize('name', SMALL)
# Half the time to compile; these programs run once.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def create(name, **options):
  size, overrides = SMALL[name]
  return models.create(
    name, num_classes=NUM_CLASSES, image_size=size, **overrides, **options
  )


@functools.cache
def images(name, batch=4):
  size = SMALL[name][0]
  return jax.random.normal(jax.random.key(1), (batch, size, size, 3))


@functools.cache
def variables(name):
  """Every value away from what makes a fresh network trivial, such as 0."""
  shapes = jax.eval_shape(create(name).init, jax.random.key(0), images(name))
  rng = np.random.default_rng(0)

  def value(path, x):
    if path.endswith(('scale', 'alpha', 'var')) or 'layer_scale' in path:
      return rng.uniform(0.5, 1.5, x.shape)
    fan_in = np.prod(x.shape[:-1]) if path.endswith('kernel') else 100
    return rng.normal(0, fan_in**-0.5, x.shape)

  return weight_conversion.unflatten(
    {
      path: jnp.asarray(value(path, x), x.dtype)
      for path, x in weight_conversion.flatten(shapes).items()
    }
  )


@functools.cache
def evaluated(name):
  apply = jit(functools.partial(create(name).apply, features=True))
  return apply(variables(name), images(name))


def assert_trees_close(actual, desired, tolerance):
  """Largest difference of each array, relative to its scale."""
  jax.tree.map(
    lambda a, d: np.testing.assert_allclose(
      a, d, rtol=0, atol=tolerance * max(np.abs(d).max(), 1e-6)
    ),
    actual,
    desired,
  )


@family
def test_outputs(name):
  outputs = evaluated(name)
  size = SMALL[name][0]
  shapes = models.feature_shapes(create(name), size)
  assert [x.shape[1:] for x in outputs['features']] == list(shapes.values())[:4]
  assert outputs['embedding'].shape == (4, *shapes['embedding'])
  assert outputs['logits'].shape == (4, NUM_CLASSES)
  assert isinstance(outputs['features'], tuple)
  classifier = variables(name)['params']['classifier']
  expected = (
    outputs['embedding'] @ classifier['kernel'] + classifier['bias'][None]
  )
  np.testing.assert_allclose(outputs['logits'], expected, rtol=1e-4, atol=1e-5)
  # Examples do not see each other in evaluation, and the logits come alone
  # unless features are asked for.
  logits = jit(create(name).apply)(variables(name), images(name)[:1])
  assert_trees_close(logits, outputs['logits'][:1], 1e-5)


@family
def test_bfloat16(name):
  model = create(name, dtype=jnp.bfloat16)
  apply = jit(functools.partial(model.apply, features=True))
  outputs = apply(variables(name), images(name))
  assert outputs['logits'].dtype == outputs['embedding'].dtype == jnp.float32
  assert {x.dtype for x in outputs['features']} == {jnp.dtype(jnp.bfloat16)}
  # Eight bits through tens of layers.
  exact = evaluated(name)
  error = outputs['embedding'] - exact['embedding']
  assert jnp.sqrt(jnp.square(error).mean()) < 0.05 * exact['embedding'].std()
  initial = jax.eval_shape(model.init, jax.random.key(0), images(name))
  assert {x.dtype for x in jax.tree.leaves(initial)} == {jnp.dtype(jnp.float32)}


def trained(name, params, seed, **options):
  """Sum of the squared logits in training, and the new collections."""
  collections = {k: x for k, x in variables(name).items() if k != 'params'}
  logits, state = create(name, **options).apply(
    {'params': params, **collections},
    images(name),
    train=True,
    mutable=['batch_stats'],
    rngs={'dropout': jax.random.key(seed)},
  )
  return jnp.square(logits).sum(), state


@family
def test_remat_wraps_every_block(name):
  gradient = jax.grad(trained, argnums=1, has_aux=True)

  def num_blocks(remat):
    program = jax.make_jaxpr(functools.partial(gradient, name, remat=remat))(
      variables(name)['params'], 0
    )
    # Each block shows up once, where it is computed again.
    names = [equation.primitive.name for equation in program.eqns]
    return names.count('remat2') + names.count('checkpoint')

  blocks = {k for k in variables(name)['params'] if 'block' in k}
  assert num_blocks(False) == 0
  assert num_blocks(True) == len(blocks)


@pytest.mark.parametrize('name', ['resnet20', 'vit_tiny_patch4_32'])
def test_remat_changes_no_gradient(name):
  def gradient(remat):
    options = {'remat': remat, 'drop_path_rate': 0.3}
    run = jit(
      jax.grad(functools.partial(trained, name, **options), has_aux=True)
    )
    return run(variables(name)['params'], 0)

  # The same sums in another order, in float32.
  assert_trees_close(gradient(True), gradient(False), 1e-4)


@family
def test_drop_path_follows_the_key(name):
  run = jit(functools.partial(trained, name, drop_path_rate=0.5))
  params = variables(name)['params']
  first, _ = run(params, 0)
  np.testing.assert_array_equal(first, run(params, 0)[0])
  others = jnp.stack([run(params, seed)[0] for seed in range(1, 5)])
  assert (jnp.abs(others - first) > 1e-3 * jnp.abs(first)).any()


@family
def test_drop_path_is_idle_in_evaluation(name):
  """A draw would ask for a key, which is not given."""
  apply = create(name, drop_path_rate=0.5).apply
  jax.eval_shape(apply, variables(name), images(name))


@pytest.mark.parametrize('name', ['resnet20', 'mobilenetv2_100'])
def test_batch_statistics_over_devices(name):
  """Four shares with `axis_name` are one batch; without it they are not."""
  shares = images(name, 16).reshape(4, 4, *images(name).shape[1:])

  def run(axis_name, batch):
    return create(name, axis_name=axis_name).apply(
      variables(name), batch, train=True, mutable=['batch_stats']
    )

  alone = jit(functools.partial(run, None))
  together = jit(jax.vmap(functools.partial(run, 'batch'), axis_name='batch'))
  whole, whole_state = alone(images(name, 16))
  logits, state = together(shares)
  assert_trees_close(logits.reshape(whole.shape), whole, 1e-4)
  first = jax.tree.map(lambda x: x[0], state)
  assert_trees_close(first, whole_state, 1e-4)
  assert jnp.abs(alone(shares[0])[0] - whole[:4]).max() > 1e-3


@pytest.mark.parametrize('name', ['resnet20', 'mobilenetv2_100'])
def test_evaluation_leaves_batch_statistics(name):
  apply = jit(functools.partial(create(name).apply, mutable=['batch_stats']))
  _, state = apply(variables(name), images(name))
  jax.tree.map(
    np.testing.assert_array_equal,
    state['batch_stats'],
    variables(name)['batch_stats'],
  )


def test_no_batch_statistics_without_batch_norm():
  without = {n for n in SMALL if 'batch_stats' not in variables(n)}
  assert without == SMALL.keys() - {'resnet20', 'resnet50', 'mobilenetv2_100'}
