"""Layer normalisation against that of Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from common import distributed
from common.layers import LayerNorm

REFERENCE = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)


@pytest.fixture
def x():
  return jax.random.normal(jax.random.key(0), (4, 3, 5)) * 2 + 3


@pytest.fixture
def variables(x):
  scale, bias = jax.random.normal(jax.random.key(1), (2, x.shape[-1]))
  return {'params': {'scale': scale, 'bias': bias}}


def loss_of(norm):
  return lambda variables, x: jnp.sin(norm.apply(variables, x)).sum()


def test_parameters_are_those_of_flax(x):
  jax.tree.map(
    np.testing.assert_array_equal,
    LayerNorm().init(jax.random.key(0), x),
    REFERENCE.init(jax.random.key(0), x),
  )


def test_value_and_derivatives(variables, x):
  def found(norm):
    loss = loss_of(norm)

    def norm_of_gradient(variables, x):
      gradients = jax.grad(loss, (0, 1))(variables, x)
      return sum(jnp.square(g).sum() for g in jax.tree.leaves(gradients))

    return (
      norm.apply(variables, x),
      jax.grad(loss, (0, 1))(variables, x),
      jax.grad(norm_of_gradient, (0, 1))(variables, x),
      jax.vmap(jax.grad(loss, 1), (None, 0))(variables, x),
    )

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()
    ),
    jax.jit(lambda: found(LayerNorm()))(),
    jax.jit(lambda: found(REFERENCE))(),
  )


def test_a_large_mean_costs_few_digits(variables, x):
  x = np.asarray(x + 1000, np.float64)
  found = jax.grad(loss_of(LayerNorm()), 1)(variables, jnp.asarray(x, 'f4'))
  with jax.enable_x64(True):
    exact = jax.grad(loss_of(REFERENCE), 1)(variables, jnp.asarray(x))
  np.testing.assert_allclose(found, exact, rtol=1e-2, atol=2e-3)


def test_bfloat16_is_computed_in_float32(variables, x):
  x = x.astype(jnp.bfloat16)
  norm = LayerNorm(dtype=jnp.bfloat16)
  found = norm.apply(variables, x)
  assert found.dtype == jnp.bfloat16
  expected = REFERENCE.apply(variables, x.astype(jnp.float32))
  np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))
  assert jax.grad(loss_of(norm), 1)(variables, x).dtype == jnp.bfloat16


def test_gradients_of_shared_parameters_are_summed_over_devices(variables, x):
  gradient = jax.grad(loss_of(LayerNorm()))
  mapped = jax.shard_map(
    gradient,
    mesh=distributed.make_mesh(jax.devices()[:4]),
    in_specs=(PartitionSpec(), PartitionSpec('batch')),
    out_specs=PartitionSpec(),
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    jax.jit(mapped)(variables, x),
    gradient(variables, x),
  )
