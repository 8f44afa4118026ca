"""The linear layer against that of Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from common.layers import Dense


def test_is_that_of_flax():
  x = jax.random.normal(jax.random.key(0), (4, 3, 5))

  def found(layer):
    variables = layer.init(jax.random.key(1), x)
    # The bias is 0 at first.
    variables['params']['bias'] += 0.5

    def loss(variables, x):
      return jnp.sin(layer.apply(variables, x)).sum()

    gradient = jax.grad(loss, (0, 1))
    return (
      layer.apply(variables, x),
      gradient(variables, x),
      jax.vmap(gradient, (None, 0))(variables, x),
    )

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    found(Dense(7)),
    found(nn.Dense(7)),
  )


def test_dtype_is_that_of_the_computation():
  x = jnp.ones((2, 5))
  layer = Dense(7, dtype=jnp.bfloat16)
  variables = layer.init(jax.random.key(0), x)
  assert variables['params']['kernel'].dtype == jnp.float32
  assert layer.apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize('dtype', [None, jnp.bfloat16])
def test_takes_a_function_for_what_it_returns(dtype):
  x = jax.random.normal(jax.random.key(0), (4, 5))
  scale = jnp.linspace(0.5, 2, 5)
  layer = Dense(7, dtype=dtype)
  variables = layer.init(jax.random.key(1), x)

  def loss(variables, x, scale, deferred):
    x = Partial(lambda x, scale: jnp.sin(x) * scale[None], x, scale)
    y = layer.apply(variables, x if deferred else x())
    return jnp.sin(y.astype(jnp.float32)).sum()

  gradient = jax.jit(
    jax.value_and_grad(loss, (0, 1, 2)), static_argnames='deferred'
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    gradient(variables, x, scale, deferred=True),
    gradient(variables, x, scale, deferred=False),
  )
