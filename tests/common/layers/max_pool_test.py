"""Max pooling against XLA's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.layers import max_pool


def reference(x, window, strides, padding):
  pads = ((padding, padding),) * 2
  return nn.max_pool(x, (window,) * 2, strides=(strides,) * 2, padding=pads)


@pytest.mark.parametrize(
  'options', [(3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 3, 0)], ids=str
)
@pytest.mark.parametrize('size', [(7, 10), (4, 4), (3, 2)], ids=str)
def test_value_and_gradient(size, options):
  window, strides, padding = options
  # Of few values, so that many are equal.
  x = jax.random.randint(jax.random.key(0), (2, *size, 3), -3, 3)
  x = x.astype(jnp.float32)
  expected, back = jax.vjp(lambda x: reference(x, *options), x)
  found, our_back = jax.vjp(
    lambda x: max_pool(x, window=window, strides=strides, padding=padding), x
  )
  np.testing.assert_array_equal(found, expected)
  cotangent = jax.random.normal(jax.random.key(1), expected.shape)
  np.testing.assert_allclose(
    our_back(cotangent)[0], back(cotangent)[0], rtol=1e-6, atol=1e-6
  )


def test_gradient_holds_less_than_that_of_xla():
  def memory(pool):
    gradient = jax.jit(jax.grad(lambda x: jnp.sin(pool(x)).sum()))
    compiled = gradient.lower(jnp.ones((2, 32, 32, 8))).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  ours = memory(lambda x: max_pool(x, window=3, strides=2, padding=1))
  assert ours < memory(lambda x: reference(x, 3, 2, 1)) / 3


def test_other_axes_are_refused():
  with pytest.raises(ValueError, match=r'x .*\[4, 4\]'):
    max_pool(jnp.ones((4, 4)), window=3, strides=2, padding=1)
