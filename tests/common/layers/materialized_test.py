import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from common import distributed
from common.layers import materialized
from common.layers.materialized import after, parameters_first, recomputed


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


@pytest.mark.parametrize('first', [0.5, np.inf, np.nan])
def test_waiting_changes_nothing(first):
  x = jnp.arange(6.0)
  found = jax.jit(after)(x, jnp.full((2, 2), first), jnp.zeros(3))
  np.testing.assert_array_equal(found, x)


def over_devices(gradient):
  """The parameters' part, of five devices with a row each."""
  return jax.shard_map(
    lambda params, x: gradient(params, x)[0],
    mesh=distributed.make_mesh(jax.devices()[:5]),
    in_specs=(PartitionSpec(), PartitionSpec('batch')),
    out_specs=PartitionSpec(),
  )


def deep(params, x, between):
  for kernel in params:
    x, kernel = between(x, kernel)
    x = jnp.tanh(x @ kernel)
  return jnp.square(x).sum()


def test_order_of_gradients_changes_no_gradient():
  params = [*jax.random.normal(jax.random.key(0), (3, 4, 4))]
  x = jax.random.normal(jax.random.key(1), (5, 4))

  def found(between):
    gradient = jax.grad(lambda p, x: deep(p, x, between), (0, 1))

    def size(params, x):
      return sum(
        jnp.square(g).sum() for g in jax.tree.leaves(gradient(params, x))
      )

    return (
      gradient(params, x),
      jax.grad(size, (0, 1))(params, x),
      over_devices(gradient)(params, x),
    )

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    jax.jit(lambda: found(parameters_first))(),
    jax.jit(lambda: found(lambda *arrays: arrays))(),
  )
  assert parameters_first(x, params[0], None)[2] is None


def branch(x, kernel, none):
  assert none is None
  return jnp.tanh(jnp.sin(x) @ kernel)


def test_computing_anew_changes_nothing():
  kernels = jax.random.normal(jax.random.key(0), (3, 4, 4))
  x = jax.random.normal(jax.random.key(1), (5, 4))

  def found(call):
    def loss(kernels, x):
      for kernel in kernels:
        x = x + call(branch, x, kernel, None)
      return jnp.square(x).sum()

    gradient = jax.grad(loss, (0, 1))

    def size(kernels, x):
      return sum(jnp.square(g).sum() for g in gradient(kernels, x))

    return (
      loss(kernels, x),
      gradient(kernels, x),
      jax.grad(size, (0, 1))(kernels, x),
      jax.vmap(gradient, (None, 0))(kernels, jnp.stack([x, x + 1])),
      over_devices(gradient)(kernels, x),
    )

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    jax.jit(lambda: found(recomputed))(),
    jax.jit(lambda: found(lambda function, *arrays: function(*arrays)))(),
  )


def test_what_is_computed_anew_is_not_kept():
  x = jnp.ones((32, 4))
  kernels = jnp.ones((6, 4, 512)), jnp.ones((6, 512, 4))

  def wide(x, up, down):
    return jnp.sin(x @ up) @ down

  def held(call):
    def loss(kernels, x):
      for up, down in zip(*kernels, strict=True):
        x = materialized(x + call(wide, x, up, down))
      return jnp.square(x).sum()

    compiled = jax.jit(jax.grad(loss)).lower(kernels, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  plain = held(lambda function, *arrays: function(*arrays))
  assert held(recomputed) < 0.6 * plain
