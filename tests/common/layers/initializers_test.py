"""Initialisers against those of Flax, and how many programs they are."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.layers import initializers

SHAPES = [(3, 3, 5, 7), (6, 8), (4, 2, 3), (1, 1)]


@pytest.mark.parametrize(
  'distribution', ['normal', 'truncated_normal', 'uniform']
)
@pytest.mark.parametrize('mode', ['fan_in', 'fan_out', 'fan_avg'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_variance_scaling_is_that_of_flax(shape, mode, distribution):
  options = 2.0, mode, distribution
  key = jax.random.key(3)
  np.testing.assert_allclose(
    initializers.variance_scaling(*options)(key, shape),
    nn.initializers.variance_scaling(*options)(key, shape),
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  'ours, theirs',
  [
    (initializers.normal(0.02), nn.initializers.normal(0.02)),
    (initializers.lecun_normal(), nn.initializers.lecun_normal()),
    (initializers.xavier_uniform(), nn.initializers.xavier_uniform()),
  ],
  ids=['normal', 'lecun_normal', 'xavier_uniform'],
)
def test_named_ones_are_those_of_flax(ours, theirs):
  key = jax.random.key(4)
  np.testing.assert_allclose(ours(key, (6, 8)), theirs(key, (6, 8)), rtol=1e-6)


@pytest.mark.parametrize(
  ('initialiser', 'shape', 'limit'),
  [
    (initializers.fan_in_uniform(), (400, 50), 1 / 20),
    (initializers.fan_in_uniform(), (3, 3, 100, 30), 1 / 30),
    (initializers.uniform_within(0.3), (20_000,), 0.3),
  ],
)
def test_uniform_initialisers(initialiser, shape, limit):
  values = np.asarray(initialiser(jax.random.key(0), shape, jnp.float32))
  assert np.abs(values).max() <= limit * (1 + 1e-6)
  np.testing.assert_allclose(values.std(), limit / math.sqrt(3), rtol=0.02)
  assert abs(values.mean()) < 0.02 * limit


def test_uniform_within_serves_as_bias_init():
  dense = nn.Dense(1000, bias_init=initializers.uniform_within(0.1))
  bias = dense.init(jax.random.key(0), jnp.ones((1, 2)))['params']['bias']
  assert 0.09 < jnp.abs(bias).max() <= 0.1


def test_dtype():
  initialise = initializers.uniform_within(0.25)
  values = initialise(jax.random.key(5), (100,), jnp.bfloat16)
  assert values.dtype == jnp.bfloat16


def test_nothing_of_no_size():
  assert initializers.normal(1.0)(jax.random.key(0), (0, 3)).shape == (0, 3)


def test_shapes_of_about_a_size_share_random_numbers(caplog):
  initialise = initializers.normal(0.3)
  with jax.log_compiles():
    for width in (1201, 1202, 1203, 1204):
      initialise(jax.random.key(0), (3, width))
  draws = [
    record
    for record in caplog.records
    if record.message.startswith('Finished XLA compilation of jit(_normal)')
  ]
  assert len(draws) == 1
