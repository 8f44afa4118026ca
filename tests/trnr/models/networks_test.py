import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.weight_conversion import flatten
from trnr import models

# Trainable parameters, from the specification of the published program.
COUNTS = [
  ('msresnet', {}, 942_736),
  ('msresnet', {'stages': 1}, 253_540),
  ('msresnet', {'stages': 6}, 1_402_200),
  ('msresnet', {'aggregate_input': True}, 958_288),
  ('msresnet', {'block': 'concatenating'}, 945_024),
  ('msresnet', {'attention': False}, 939_280),
  ('msresnet', {'noise_map': True, 'stages': 6, 'channels': 1}, 1_400_904),
  ('msresnet', {'noise_map': True, 'stages': 6}, 1_402_632),
  ('dnnet', {'channels': 1}, 1_152_088),
  ('dnnet', {}, 1_154_392),
  ('ddn', {}, 56_966),
  ('adn', {}, 37_879),
]
SMALL = {
  'msresnet': {'features': 8, 'stages': 1},
  'dnnet': {'features': 8, 'stages': 1},
  'ddn': {'features': 4},
  'adn': {'features': 4, 'stages': 2},
}


def shapes(network):
  image = jnp.zeros((1, 31, 31, network.channels))
  options = {}
  if network.needs_sigma:
    options['sigma'] = jnp.zeros((1,))
  return jax.eval_shape(
    lambda rng: network.init(rng, image, **options), jax.random.key(0)
  )


@pytest.mark.parametrize(('name', 'options', 'count'), COUNTS)
def test_parameter_counts(name, options, count):
  params = shapes(models.create(name, **options))['params']
  assert sum(x.size for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(('name', 'options', 'count'), COUNTS)
def test_every_parameter_has_a_depth(name, options, count):
  del count
  network = models.create(name, **options)
  depths = flatten(network.depths(shapes(network)['params']))
  assert set(depths.values()) == set(range(1, len(network.levels()) + 1))


@pytest.mark.parametrize('name', models.names())
@pytest.mark.parametrize('options', [{}, {'dtype': jnp.bfloat16}])
def test_restores_the_size_in_float32(name, options):
  network = models.create(name, **SMALL[name], **options)
  image = jax.random.uniform(jax.random.key(1), (2, 32, 35, 3))
  sigma = {'sigma': jnp.full((2,), 0.1)} if name == 'dnnet' else {}
  variables = network.init(jax.random.key(0), image, **sigma)
  restored = network.apply(variables, image, **sigma)
  assert restored.shape == image.shape
  assert restored.dtype == jnp.float32
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
  full = models.create(name, **SMALL[name])
  # Eight bits of mantissa, a few layers; DDN's details are tiny differences.
  np.testing.assert_allclose(
    restored, full.apply(variables, image, **sigma), atol=0.1
  )


@pytest.mark.slow
def test_rematerialisation_changes_no_gradient():
  image = jax.random.uniform(jax.random.key(1), (1, 12, 12, 3))
  plain = models.create('msresnet', **SMALL['msresnet'])
  variables = plain.init(jax.random.key(0), image)

  def gradient(network):
    def loss(params):
      restored, _ = network.apply(
        {**variables, 'params': params},
        image,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.square(restored).mean()

    return jax.grad(loss)(variables['params'])

  remat = models.create('msresnet', remat=True, **SMALL['msresnet'])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    gradient(plain),
    gradient(remat),
  )


def test_initialisation():
  image = jnp.zeros((1, 8, 8, 3))
  network = models.create('msresnet', stages=1)
  leaves = flatten(network.init(jax.random.key(0), image)['params'])
  for path, x in leaves.items():
    leaf = path.rpartition('/')[2]
    if leaf == 'kernel':
      fan_in = np.prod(x.shape[:-1])
      # Five standard errors of the deviation of a normal sample.
      tolerance = 5 / np.sqrt(2 * x.size)
      np.testing.assert_allclose(
        x.std() / np.sqrt(2 / fan_in), 1, atol=tolerance
      )
    else:
      assert (x == {'slope': 0.25, 'scale': 1.0, 'bias': 0.0}[leaf]).all()


@pytest.mark.parametrize(
  ('name', 'shape', 'options', 'message'),
  [
    ('msresnet', (8, 8, 3), {}, 'image'),
    ('msresnet', (1, 8, 8, 1), {}, '3 channels'),
    ('msresnet', (1, 8, 8, 3), {'sigma': jnp.zeros((1,))}, 'takes no sigma'),
    ('dnnet', (1, 8, 8, 3), {}, 'needs sigma'),
    ('dnnet', (1, 8, 8, 3), {'sigma': jnp.zeros((2,))}, 'one number'),
    ('ddn', (1, 30, 40, 3), {}, '31 pixels'),
    ('adn', (1, 8, 8, 3), {'sigma': jnp.zeros((1,))}, 'takes no sigma'),
  ],
)
def test_wrong_inputs_are_named(name, shape, options, message):
  network = models.create(name)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda: network.init(jax.random.key(0), jnp.zeros(shape), **options)
    )


def test_unknown_names():
  with pytest.raises(ValueError, match="did you mean 'msresnet'"):
    models.create('msresnets')
  with pytest.raises(ValueError, match=r"no field 'depth'.*stages"):
    models.create('msresnet', depth=3)
  with pytest.raises(ValueError, match="block 'dense'"):
    models.create('msresnet', block='dense').init(
      jax.random.key(0), jnp.zeros((1, 8, 8, 3))
    )
