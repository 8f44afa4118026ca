"""The shared layers against formulas written out in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.layers import DropPath, Mlp, SelfAttention


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def randomised(module, *arguments, **options):
  """Variables of a module with every entry, biases too, away from 0."""
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *arguments, **options)
  )
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes
  )


def dense(params, x):
  return x @ np.asarray(params['kernel'], np.float64) + np.asarray(
    params['bias'], np.float64
  )


def attention_by_loops(params, x, num_heads, bias):
  """One head of one example at a time."""
  qkv = dense(params['qkv'], x)
  query, key, value = np.split(qkv, 3, axis=-1)
  side = x.shape[-1] // num_heads
  mixed = np.zeros_like(query)
  for example in range(len(x)):
    for head in range(num_heads):
      part = slice(head * side, (head + 1) * side)
      scores = query[example, :, part] @ key[example, :, part].T
      scores = scores / math.sqrt(side) + bias[head]
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      weights /= weights.sum(-1, keepdims=True)
      mixed[example, :, part] = weights @ value[example, :, part]
  return dense(params['project'], mixed)


def test_attention(rng):
  x = rng.normal(size=(2, 5, 6)).astype(np.float32)
  bias = rng.normal(size=(3, 5, 5)).astype(np.float32)
  attention = SelfAttention(num_heads=3)
  variables = randomised(attention, x)
  np.testing.assert_allclose(
    attention.apply(variables, x, bias[None]),
    attention_by_loops(variables['params'], x, 3, bias),
    rtol=1e-5,
    atol=1e-5,  # Sums of a few products of order 1 in float32.
  )


def test_attention_has_any_leading_axes(rng):
  x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
  attention = SelfAttention(num_heads=2)
  variables = randomised(attention, x)
  whole = attention.apply(variables, x)
  each = attention.apply(variables, x.reshape(6, 5, 4)).reshape(x.shape)
  np.testing.assert_allclose(whole, each, rtol=1e-5, atol=1e-6)


def test_attention_in_bfloat16(rng):
  x = rng.normal(size=(2, 5, 6)).astype(np.float32)
  variables = randomised(SelfAttention(num_heads=3), x)
  exact = SelfAttention(num_heads=3).apply(variables, x)
  rough = SelfAttention(num_heads=3, dtype=jnp.bfloat16).apply(variables, x)
  assert rough.dtype == jnp.bfloat16
  np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.05)


def test_attention_needs_heads_that_divide_the_width():
  with pytest.raises(ValueError, match='4 heads do not divide 6 features'):
    SelfAttention(num_heads=4).init(jax.random.key(0), jnp.ones((1, 2, 6)))


def test_mlp_uses_the_exact_gelu(rng):
  x = rng.normal(size=(2, 3, 4)).astype(np.float32)
  mlp = Mlp(7)
  variables = randomised(mlp, x)
  hidden = dense(variables['params']['expand'], x)
  hidden *= np.vectorize(lambda h: (1 + math.erf(h / math.sqrt(2))) / 2)(hidden)
  expected = dense(variables['params']['project'], hidden)
  np.testing.assert_allclose(
    mlp.apply(variables, x), expected, rtol=1e-5, atol=1e-6
  )


def drop(x, *, rate, train=True, seed=0):
  return DropPath(rate).apply(
    {}, x, train=train, rngs={'dropout': jax.random.key(seed)}
  )


def test_drop_path_drops_examples_and_keeps_the_mean():
  x = jnp.full((20_000, 2, 3), 3.0)
  y = np.asarray(drop(x, rate=0.25))
  kept = y[:, 0, 0] != 0
  expected = np.where(kept[:, None, None], 4.0, 0.0)
  np.testing.assert_array_equal(y, np.broadcast_to(expected, y.shape))
  # Four deviations of the mean of 20,000 draws.
  assert abs(kept.mean() - 0.75) < 4 * math.sqrt(0.25 * 0.75 / 20_000)


def test_drop_path_follows_its_key():
  x = jnp.ones((64, 1))
  np.testing.assert_array_equal(drop(x, rate=0.5), drop(x, rate=0.5))
  assert (drop(x, rate=0.5) != drop(x, rate=0.5, seed=1)).any()


@pytest.mark.parametrize(('rate', 'train'), [(0.0, True), (0.9, False)])
def test_drop_path_needs_no_key_when_idle(rate, train):
  x = jnp.ones((8, 2))
  np.testing.assert_array_equal(DropPath(rate).apply({}, x, train=train), x)


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_drop_path_rejects_rates(rate):
  with pytest.raises(ValueError, match='must be in'):
    drop(jnp.ones((2, 2)), rate=rate)


def test_drop_path_keeps_the_dtype():
  x = jnp.ones((4, 2), jnp.bfloat16)
  assert drop(x, rate=0.5).dtype == jnp.bfloat16
