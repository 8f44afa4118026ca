import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from common import distributed
from common.layers import gelu

X = jnp.linspace(-9.0, 9.0, 721)


def test_value_is_that_of_jax():
  # As users' programs are compiled: the tests' own lose a digit here.
  script = (
    'import jax, numpy as np\n'
    'from common.layers import gelu\n'
    'x = jax.numpy.linspace(-9.0, 9.0, 721)\n'
    'expected = jax.nn.gelu(x, approximate=False)\n'
    'np.testing.assert_allclose(gelu(x), expected, rtol=1e-6, atol=5e-7)'
  )
  environment = os.environ | {'XLA_FLAGS': ''}
  subprocess.run([sys.executable, '-c', script], env=environment, check=True)


def test_gradients_are_those_of_jax():
  reference = functools.partial(jax.nn.gelu, approximate=False)
  for order in (1, 2):
    ours, theirs = gelu, reference
    for _ in range(order):
      ours, theirs = jax.grad(ours), jax.grad(theirs)
    np.testing.assert_allclose(
      jax.vmap(ours)(X), jax.vmap(theirs)(X), rtol=2e-5, atol=1e-6
    )
  check_grads(gelu, (jnp.array([-2.0, 0.0, 1.5]),), order=2, rtol=1e-2)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept(dtype):
  x = X.astype(dtype)
  value, gradient = jax.value_and_grad(lambda x: gelu(x).sum())(x)
  assert value.dtype == gradient.dtype == dtype


def test_gradient_inside_shard_map():
  x = X[:720].reshape(8, 90)
  split = jax.P(distributed.AXIS_NAME)
  gradient = jax.grad(lambda x: gelu(x).sum())
  mapped = jax.shard_map(
    gradient, mesh=distributed.make_mesh(), in_specs=split, out_specs=split
  )
  np.testing.assert_allclose(
    jax.jit(mapped)(x), gradient(x), rtol=1e-5, atol=1e-6
  )
