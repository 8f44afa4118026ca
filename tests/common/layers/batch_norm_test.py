"""Batch normalisation against its definition, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.layers import BatchNorm


@pytest.fixture
def x():
  return np.random.default_rng(0).normal(3, 2, (8, 3, 5)).astype(np.float32)


def test_training(x):
  norm = BatchNorm(momentum=0.8)
  variables = norm.init(jax.random.key(0), x, train=True)
  y, state = norm.apply(variables, x, train=True, mutable=['batch_stats'])
  mean, variance = x.mean((0, 1)), x.var((0, 1))
  np.testing.assert_allclose(
    y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-5, atol=1e-5
  )
  stats = state['batch_stats']
  np.testing.assert_allclose(stats['mean'], 0.2 * mean, rtol=1e-5)
  unbiased = x.var((0, 1), ddof=1)
  np.testing.assert_allclose(stats['var'], 0.8 + 0.2 * unbiased, rtol=1e-5)


def test_evaluation(x):
  variables = {
    'params': {'scale': jnp.full(5, 2.0), 'bias': jnp.full(5, 0.5)},
    'batch_stats': {'mean': jnp.full(5, 3.0), 'var': jnp.full(5, 4.0)},
  }
  y = BatchNorm().apply(variables, x, train=False)
  expected = (x - 3) / np.sqrt(4 + 1e-5) * 2 + 0.5
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_initialisation_leaves_the_statistics(x):
  variables = BatchNorm().init(jax.random.key(0), x, train=True)
  np.testing.assert_array_equal(variables['batch_stats']['mean'], 0)
  np.testing.assert_array_equal(variables['batch_stats']['var'], 1)


def test_large_mean_in_bfloat16():
  """Statistics in bfloat16 would lose a deviation of 1 beside a mean of 100."""
  x = np.random.default_rng(0).normal(100, 1, (4096, 2))
  x = jnp.asarray(x, jnp.bfloat16)
  norm = BatchNorm(dtype=jnp.bfloat16)
  variables = norm.init(jax.random.key(0), x, train=True)
  y, _ = norm.apply(variables, x, train=True, mutable=['batch_stats'])
  assert y.dtype == jnp.bfloat16
  y = y.astype(jnp.float32)
  np.testing.assert_allclose(y.std(0), 1, atol=0.01)
  np.testing.assert_allclose(y.mean(0), 0, atol=0.01)


def test_statistics_over_devices_are_those_of_the_whole_batch(x):
  norm = BatchNorm(axis_name='batch')
  variables = norm.init(jax.random.key(0), x, train=True)

  def apply(x):
    return norm.apply(variables, x, train=True, mutable=['batch_stats'])

  shares = jnp.asarray(x).reshape(4, 2, *x.shape[1:])
  y, state = jax.vmap(apply, axis_name='batch')(shares)
  whole, whole_state = BatchNorm().apply(
    variables, x, train=True, mutable=['batch_stats']
  )
  np.testing.assert_allclose(y.reshape(x.shape), whole, rtol=1e-5, atol=1e-5)
  for ours, theirs in zip(
    jax.tree.leaves(state), jax.tree.leaves(whole_state), strict=True
  ):
    for device in ours:
      np.testing.assert_allclose(device, theirs, rtol=1e-5)


def test_derivatives_are_those_of_the_definition(x):
  scale, bias, target = np.random.default_rng(1).normal(size=(3, 5))
  weights = np.random.default_rng(2).normal(size=x.shape)

  def by_layer(x, scale, bias):
    y, state = BatchNorm().apply(
      {
        'params': {'scale': scale, 'bias': bias},
        'batch_stats': {'mean': jnp.zeros(5), 'var': jnp.zeros(5)},
      },
      x,
      train=True,
      mutable=['batch_stats'],
    )
    stats = state['batch_stats']
    return y, 10 * stats['mean'], 10 * stats['var']

  def by_definition(x, scale, bias):
    centred = x - x.mean((0, 1), keepdims=True)
    variance = jnp.square(centred).mean((0, 1), keepdims=True)
    y = centred / jnp.sqrt(variance + 1e-5) * scale[None, None]
    y += bias[None, None]
    return y, x.mean((0, 1)), variance[0, 0] * 24 / 23

  def found(function):
    def loss(*inputs):
      y, mean, variance = function(*inputs)
      y = jnp.sin(y * weights).sum()
      return y + (target * mean).sum() + jnp.square(variance).sum()

    first = jax.grad(loss, (0, 1, 2))

    def size(*inputs):
      return sum(jnp.square(g).sum() for g in first(*inputs))

    inputs = jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias)
    return first(*inputs), jax.grad(size, (0, 1, 2))(*inputs)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max()
    ),
    jax.jit(lambda: found(by_layer))(),
    jax.jit(lambda: found(by_definition))(),
  )
