import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from common import distributed
from common.layers import (
  convolution,
  per_sample_convolution,
  per_sample_transposed_convolution,
  transposed_convolution,
)


def arrays(*shapes):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=shape), 'f4') for shape in shapes]


@pytest.mark.parametrize(
  'options',
  [
    {'padding': 1},
    {'padding': 2, 'dilation': 2, 'groups': 2},
    {'padding': 1, 'strides': 2, 'groups': 4},
  ],
)
def test_lowerings_agree_with_one_image_after_the_other(options):
  groups = options.get('groups', 1)
  x, kernels = arrays((3, 6, 7, 4), (3, 3, 3, 4 // groups, 8))

  def results(lowering):
    def loss(x, kernels):
      y = per_sample_convolution(x, kernels, lowering=lowering, **options)
      return jnp.sin(y).sum(), y

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernels)

  expected = jnp.stack(
    [convolution(x[i][None], kernels[i], **options)[0] for i in range(len(x))]
  )
  gradients, y = results('unrolled')
  np.testing.assert_allclose(y, expected, atol=1e-5)
  for lowering in ('loop', 'vmap'):
    other_gradients, other_y = results(lowering)
    np.testing.assert_allclose(other_y, expected, atol=1e-5)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      gradients,
      other_gradients,
    )


@pytest.mark.parametrize('few', [1, 2])
def test_small_groups_agree_with_one_image_after_the_other(few):
  x, kernels = arrays((3, 6, 7, 4 * few), (3, 5, 5, few, 4))
  options = {'padding': 2, 'dilation': 2, 'strides': 2, 'groups': 4}

  def results(lowering):
    def loss(x, kernels):
      y = per_sample_convolution(x, kernels, lowering=lowering, **options)
      return jnp.sin(y).sum(), y

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernels)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
    results(None),
    results('vmap'),
  )


def test_transposed_is_the_adjoint():
  x, kernel, y = arrays((2, 3, 4, 5), (4, 4, 6, 5), (2, 6, 8, 6))
  options = {'strides': (2, 2), 'padding': ((1, 1), (1, 1))}
  painted = transposed_convolution(x, kernel, **options)
  assert painted.shape == y.shape
  forward = convolution(y, kernel, **options)
  np.testing.assert_allclose(
    (painted * y).sum(), (forward * x).sum(), rtol=1e-4
  )


def test_transposed_lowerings_agree():
  x, kernels = arrays((3, 4, 5, 3), (3, 2, 2, 6, 3))
  options = {'strides': (2, 2), 'padding': ((0, 0), (0, 0))}
  found = [
    per_sample_transposed_convolution(x, kernels, lowering=lowering, **options)
    for lowering in ('unrolled', 'loop', 'vmap')
  ]
  # With stride and side 2, each pixel paints a block of its own.
  blocks = jnp.einsum('bhwc,bijfc->bhiwjf', x, kernels)
  expected = blocks.reshape(3, 8, 10, 6)
  for y in found:
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize('lowering', ['unrolled', 'loop'])
def test_kernels_on_each_device(lowering):
  x, kernels = arrays((16, 5, 5, 2), (16, 3, 3, 2, 4))
  mesh = distributed.make_mesh()
  split = PartitionSpec('batch')

  def gradient(kernels, x):
    def loss(kernels):
      y = per_sample_convolution(x, kernels, padding=1, lowering=lowering)
      return jnp.sin(y).sum()

    return jax.grad(loss)(kernels)

  mapped = jax.shard_map(
    gradient, mesh=mesh, in_specs=(split, split), out_specs=split
  )
  np.testing.assert_allclose(
    mapped(kernels, x), gradient(kernels, x), atol=1e-5
  )


def test_program_of_a_large_batch_does_not_grow():
  def lines(batch):
    x, kernels = arrays((batch, 5, 5, 2), (batch, 3, 3, 2, 4))
    convolve = jax.jit(lambda x, k: per_sample_convolution(x, k, padding=1))
    return convolve.lower(x, kernels).as_text().count('\n')

  assert lines(20) == lines(40)


@pytest.mark.parametrize('lowering', ['unrolled', 'loop'])
def test_gradient_keeps_no_copies_of_the_images(lowering):
  x, kernels = arrays((3, 6, 7, 4), (3, 3, 3, 4, 8))
  _, transposed = jax.vjp(
    lambda x, k: per_sample_convolution(x, k, padding=1, lowering=lowering),
    x,
    kernels,
  )
  kept = sum(array.size for array in jax.tree.leaves(transposed))
  assert kept == x.size + kernels.size


def test_errors_name_the_arguments():
  x, kernels = arrays((2, 5, 5, 2), (3, 3, 3, 2, 4))
  with pytest.raises(ValueError, match=r'x .* and kernels'):
    per_sample_convolution(x, kernels)
  with pytest.raises(ValueError, match=r'kernel .* 2 channels'):
    transposed_convolution(
      x, kernels[0], strides=(2, 2), padding=((0, 0), (0, 0))
    )


@pytest.mark.parametrize('channels', [1, 3, 8])
def test_channels_that_are_not_those_of_small_groups(channels):
  x, kernels = arrays((3, 6, 7, channels), (3, 3, 3, 1, 4))
  with pytest.raises(ValueError, match='is not for the'):
    per_sample_convolution(x, kernels, padding=1, groups=4)
