import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from common import distributed
from common.layers import materialized


def chain(x, between):
  for _ in range(3):
    x = between(x + jnp.sin(x))
  return x


@pytest.mark.parametrize('first', [0.5, np.inf, -np.inf, np.nan])
def test_changes_nothing(first):
  x = jnp.arange(6.0).reshape(2, 3).at[0, 0].set(first)
  np.testing.assert_array_equal(jax.jit(materialized)(x), x)


def test_derivatives_are_those_without():
  x, direction = jnp.linspace(-1, 2, 7), jnp.linspace(1, 3, 7)

  def found(between):
    def loss(x):
      return jnp.square(chain(x, between)).sum()

    gradient = jax.grad(loss)
    return (
      jax.jvp(loss, (x,), (direction,)),
      jax.jvp(gradient, (x,), (direction,)),
      jax.vmap(gradient)(jnp.stack([x, direction])),
    )

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    jax.jit(lambda: found(materialized))(),
    jax.jit(lambda: found(lambda x: x))(),
  )


def test_works_on_many_devices():
  mesh = distributed.make_mesh()
  x = jnp.linspace(-1, 2, 8)
  split = PartitionSpec('batch')
  mapped = jax.shard_map(
    jax.grad(lambda x: chain(x, materialized).sum()),
    mesh=mesh,
    in_specs=split,
    out_specs=split,
  )
  expected = jax.grad(lambda x: chain(x, lambda x: x).sum())(x)
  np.testing.assert_allclose(mapped(x), expected, rtol=1e-6)


def test_the_compiler_leaves_it_there():
  compiled = (
    jax.jit(jax.grad(lambda x: chain(x, materialized).sum()))
    .lower(jnp.ones((4, 5)))
    .compile()
  )
  # Three ways there, and three back, the last of which nobody adds to.
  assert compiled.as_text().count(' conditional(') >= 5
  assert jax.jit(materialized)(jnp.zeros((0, 3))).shape == (0, 3)
