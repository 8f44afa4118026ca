"""Counts of multiply-adds by hand."""

import jax
import jax.numpy as jnp

from common import cost, layers


def test_convolutions_and_products():
  x, kernel = jnp.ones((1, 5, 7, 4)), jnp.ones((3, 3, 2, 6))

  @jax.jit
  def run(x, kernel, matrix):
    x = layers.convolution(x, kernel, padding=1, groups=2)
    return jnp.tanh(x) @ matrix

  count = cost.multiply_adds(run, x, kernel, jnp.ones((6, 10)))
  assert count == 5 * 7 * 6 * (9 * 2) + 5 * 7 * 6 * 10


def test_scan_counts_as_often_as_it_runs():
  matrix = jax.ShapeDtypeStruct((4, 4), jnp.float32)

  def run(matrix):
    return jax.lax.scan(lambda x, _: (x @ matrix, None), jnp.eye(4), length=8)[
      0
    ]

  assert cost.multiply_adds(run, matrix) == 8 * 4**3
  assert cost.multiply_adds(run, matrix, repeat_loops=False) == 4**3


def test_depthwise_counts_as_a_convolution():
  x, kernel = jnp.ones((2, 5, 7, 4)), jnp.ones((3, 3, 1, 4))

  def loss(x, kernel):
    return layers.convolution(x, kernel, padding=1, groups=4).sum()

  one_way = 2 * 5 * 7 * 4 * 9
  assert cost.multiply_adds(loss, x, kernel) == one_way
  both = jax.value_and_grad(loss, argnums=(0, 1))
  assert cost.multiply_adds(both, x, kernel) == 3 * one_way


def test_convolutions_made_taller_count_as_they_are():
  x, kernel = jnp.ones((4, 8, 8, 32)), jnp.ones((3, 3, 32, 32))

  def loss(x, kernel):
    return jnp.square(layers.convolution(x, kernel, padding=1)).sum()

  def loop(x, kernel):
    def body(x, _):
      return jnp.tanh(layers.convolution(x, kernel, padding=1)), None

    return jax.lax.scan(body, x, length=3)[0].sum()

  one_way = 4 * 8 * 8 * 32 * 9 * 32
  assert cost.multiply_adds(loss, x, kernel) == one_way
  both = jax.value_and_grad(loss, argnums=(0, 1))
  assert cost.multiply_adds(both, x, kernel) == 3 * one_way
  both = jax.value_and_grad(loop, argnums=(0, 1))
  assert cost.multiply_adds(both, x, kernel) == 9 * one_way


def test_counts_what_a_result_follows_from():
  def run(x):
    x @ x
    return x

  assert cost.multiply_adds(run, jnp.ones((3, 3))) == 0


def test_depthwise_convolutions_that_are_computed_again_in_a_loop_count():
  kernels = jnp.ones((4, 3, 3, 1, 5))

  def loss(kernels):
    def body(x, kernel):
      return layers.convolution(x, kernel, padding=1, groups=5), None

    body = jax.checkpoint(body, prevent_cse=False)
    return jax.lax.scan(body, jnp.ones((2, 8, 8, 5)), kernels)[0].sum()

  once = 4 * 2 * 8 * 8 * 5 * 9
  # Forward, again, and the two gradients; the first image's is of no use.
  counted = cost.multiply_adds(jax.grad(loss), kernels)
  assert 3 * once <= counted <= 4 * once
