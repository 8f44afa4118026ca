"""Variables without running a module, against `Module.init`."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import layers
from common.initialization import initialize


class Network(nn.Module):
  """A convolution, BatchNorm, and a branch that may be left out."""

  @nn.compact
  def __call__(self, inputs, *, branch=False):
    x = layers.Conv(6)(inputs['image'])
    x = layers.BatchNorm()(x, train=False)
    if branch:
      x += nn.Dense(6, name='branch')(jnp.ones(x.shape))
    return x * self.variable('memory', 'count', jnp.zeros, (), int).value


class Centred(nn.Module):
  """Takes its bias from the data."""

  @nn.compact
  def __call__(self, x):
    return x + self.param('bias', lambda _: -x.mean(keepdims=True))


@pytest.mark.parametrize('branch', [False, True])
def test_variables_are_those_of_init(branch):
  image = jnp.zeros((2, 8, 8, 5))
  shape = jax.ShapeDtypeStruct(image.shape, image.dtype)
  rng = jax.random.key(3)
  ours = initialize(Network(), rng, {'image': shape}, branch=branch)
  expected = Network().init(rng, {'image': image}, branch=branch)
  assert set(expected) == {'params', 'batch_stats', 'memory'}
  assert ('branch' in ours['params']) == branch
  for x, y in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
    assert x.dtype == y.dtype
  jax.tree.map(np.testing.assert_array_equal, ours, expected)


class Repeated(nn.Module):
  """A block in a loop with parameters for each turn, and one by itself."""

  again: bool

  @nn.compact
  def __call__(self, x):
    class Block(nn.Module):
      @nn.compact
      def __call__(self, x, _):
        return layers.Conv(3)(x), None

    block = nn.remat(Block) if self.again else Block
    x, _ = block(name='one')(x, None)
    return nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=4,
    )(name='loop')(x, None)


@pytest.mark.parametrize('again', [False, True])
def test_variables_inside_loops_and_what_is_computed_again(again):
  image = jnp.zeros((1, 4, 4, 3))
  shape = jax.ShapeDtypeStruct(image.shape, image.dtype)
  ours, expected = (
    make(Repeated(again), jax.random.key(3), x)
    for make, x in ((initialize, shape), (nn.Module.init, image))
  )
  assert ours['params']['loop']['Conv_0']['kernel'].shape == (4, 3, 3, 3, 3)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5), ours, expected
  )


def test_only_initialisers_run():
  calls = []

  def record(x):
    calls.append(x)
    return x

  class Recorded(nn.Module):
    """Computes something of a constant, outside of JAX's sight."""

    @nn.compact
    def __call__(self, x):
      constant = jnp.ones(x.shape)
      seen = jax.pure_callback(record, constant, constant)
      return nn.Dense(3)(x + seen)

  variables = initialize(
    Recorded(), jax.random.key(0), jax.ShapeDtypeStruct((2, 5), jnp.float32)
  )
  assert variables['params']['Dense_0']['kernel'].shape == (5, 3)
  assert not calls
  Recorded().init(jax.random.key(0), jnp.zeros((2, 5)))
  assert calls


def test_a_variable_of_the_data_needs_the_data():
  image = jnp.full((2, 8, 8, 3), 0.25)
  rng = jax.random.key(0)
  variables = initialize(Centred(), rng, image)
  np.testing.assert_allclose(variables['params']['bias'], -0.25)
  with pytest.raises(
    ValueError, match='variables of Centred depend on the val'
  ):
    initialize(Centred(), rng, jax.ShapeDtypeStruct(image.shape, image.dtype))
