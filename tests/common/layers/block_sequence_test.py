"""Blocks of one kind, in a loop and one by one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.layers import in_sequence


class Block(nn.Module):
  """A linear layer beside a shortcut, with what it is given added."""

  @nn.compact
  def __call__(self, x, z, own=None):
    y = nn.Dense(x.shape[-1])(x)
    y = y if z is None else y + z
    y = y if own is None else y * own['gate'][:, None]
    self.sow('intermediates', 'mean', y.mean())
    return x + jnp.tanh(y)


class Network(nn.Module):
  """Blocks in a row."""

  count: int = 3
  remat: bool = False

  @nn.compact
  def __call__(self, x, z, each=None):
    blocks = [Block(name=f'block{i}') for i in range(self.count)]
    return in_sequence(blocks, x, z, each=each, remat=self.remat)


def one_by_one(variables, x, z, each=None):
  for i in range(len(variables['params'])):
    own = None if each is None else {'gate': each['gate'][i]}
    params = {'params': variables['params'][f'block{i}']}
    x = Block().apply(params, x, z, own)
  return x


def draw(count):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, 5))
  each = {'gate': jax.random.normal(keys[2], (count, 2))}
  return x, jax.random.normal(keys[1], (2, 5)), each


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
@pytest.mark.parametrize('remat', [False, True])
@pytest.mark.parametrize('count', [0, 1, 3])
def test_values_and_gradients(count, remat, platform, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)
  network = Network(count, remat)
  x, z, each = draw(count)
  variables = network.init(jax.random.key(1), x, z, each)
  assert [*variables.get('params', {})] == [f'block{i}' for i in range(count)]

  # `init` gives what blocks say of themselves too.
  variables = {'params': variables.get('params', {})}

  def gradients(function, *arguments):
    def loss(variables, x):
      return jnp.square(function(variables, x, *arguments)).sum()

    return jax.value_and_grad(loss, argnums=(0, 1))(variables, x)

  for arguments in ((z, each), (None,), (z,)):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
      gradients(network.apply, *arguments),
      gradients(one_by_one, *arguments),
    )


def test_a_loop_is_one_block_of_program():
  def equations(count):
    network = Network(count)
    x, z, _ = draw(count)
    variables = network.init(jax.random.key(1), x, z)
    jaxpr = jax.make_jaxpr(network.apply)(variables, x, z).jaxpr
    return str(jaxpr).count('tanh')

  assert equations(2) == equations(6) == 1


def test_blocks_can_be_looked_into():
  x, z, _ = draw(3)
  network = Network()
  variables = {'params': network.init(jax.random.key(1), x, z)['params']}
  y, seen = network.apply(variables, x, z, mutable=['intermediates'])
  np.testing.assert_allclose(y, network.apply(variables, x, z), rtol=1e-5)
  assert [*seen['intermediates']] == ['block0', 'block1', 'block2']
