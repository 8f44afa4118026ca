import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from common import distributed
from common.layers import Conv, convolution, dense_convolution

# Strides, padding, dilation, side of the kernel, batch, groups.
CASES = [
  (1, 1, 1, 3, 2, 1),
  (1, 3, 3, 3, 2, 1),
  (2, 1, 1, 3, 2, 1),
  (2, 1, 1, 4, 2, 1),
  (1, 0, 1, 1, 2, 1),
  (2, 0, 1, 1, 2, 1),
  (2, 1, 1, 1, 2, 1),
  (3, 2, 1, 2, 2, 1),
  (2, ((0, 1), (2, 0)), 2, 3, 2, 1),
  (1, 1, 1, 3, 9, 1),
  (1, 1, 1, 3, 2, 3),  # One filter for each channel.
  (1, 3, 1, 7, 2, 3),
  (2, 1, 1, 4, 2, 3),
  (3, 0, 1, 1, 2, 3),
  (2, ((0, 1), (2, 0)), 2, 3, 2, 3),
  (1, 2, 1, 5, 2, 2),  # One filter for each two channels.
  (2, ((0, 1), (2, 0)), 2, 3, 2, 2),
]


def inputs(side, batch, groups=1):
  rng = np.random.default_rng(0)
  channels = 4 if groups == 2 else 3
  x = rng.normal(size=(batch, 7, 9, channels))
  features = 4 if groups == 1 else groups
  kernel = rng.normal(size=(side, side, channels // groups, features))
  return jnp.asarray(x), jnp.asarray(kernel)


def plain(x, kernel, *, strides=1, padding=0, dilation=1, groups=1):
  if isinstance(padding, int):
    padding = ((padding, padding), (padding, padding))
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (strides, strides),
    padding,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


@pytest.mark.parametrize(
  ('strides', 'padding', 'dilation', 'side', 'batch', 'groups', 'taps'),
  [
    (*case, taps)
    for case in CASES
    for taps in ('apart', 'together')
    if case[-1] == 1 or taps == 'apart'
  ],
)
def test_equals_the_plain_one_to_the_second_derivative(
  strides, padding, dilation, side, batch, groups, taps, monkeypatch
):
  if taps == 'together':  # As of many channels, and of many pixels.
    monkeypatch.setattr(dense_convolution, '_FEW_CHANNELS', 1)
    monkeypatch.setattr(dense_convolution, '_MANY_CHANNELS', 1)
    monkeypatch.setattr(dense_convolution, '_ROWS_OF_A_PRODUCT', 100)
  options = {
    'strides': strides,
    'padding': padding,
    'dilation': dilation,
    'groups': groups,
  }

  def results(function):
    def loss(x, kernel):
      return jnp.sin(function(x, kernel, **options)).sum()

    def steepness(x, kernel):
      first = jax.grad(loss, argnums=(0, 1))(x, kernel)
      return sum(jnp.square(g).sum() for g in first), first

    second, first = jax.grad(steepness, argnums=(0, 1), has_aux=True)(x, kernel)
    return function(x, kernel, **options), first, second

  with jax.enable_x64(True):
    x, kernel = inputs(side, batch, groups)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
      jax.jit(lambda: results(convolution))(),
      jax.jit(lambda: results(plain))(),
    )


@pytest.mark.parametrize('groups', [1, 3])
def test_gradients_agree_on_many_devices(groups):
  mesh = distributed.make_mesh()
  x, kernel = inputs(3, 8, groups)

  def loss(kernel, x, axis_name=None):
    value = jnp.sin(convolution(x, kernel, padding=1, groups=groups)).mean()
    return distributed.pmean(value, axis_name)

  def step(kernel, x):
    gradient = jax.grad(loss)(kernel, x, 'batch')
    return distributed.pmean(gradient, 'batch')

  expected = jax.grad(loss)(kernel, x)
  everywhere, split = PartitionSpec(), PartitionSpec('batch')
  for check in (True, False):
    mapped = jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(everywhere, split),
      out_specs=everywhere,
      check_vma=check,
    )
    np.testing.assert_allclose(mapped(kernel, x), expected, atol=1e-7)
  mapped = jax.pmap(step, 'batch', in_axes=(None, 0), out_axes=None)
  np.testing.assert_allclose(mapped(kernel, x[:, None]), expected, atol=1e-7)


@pytest.mark.parametrize('groups', [1, 3])
def test_gradients_agree_under_vmap_and_in_a_loop(groups):
  x, kernel = inputs(3, 2, groups)
  kernels = jnp.stack([kernel, 2 * kernel])

  def gradient(kernel):
    def loss(kernel):
      return jnp.sin(convolution(x, kernel, padding=1, groups=groups)).sum()

    return jax.grad(loss)(kernel)

  expected = jnp.stack([gradient(k) for k in kernels])
  np.testing.assert_allclose(
    jax.vmap(gradient)(kernels), expected, rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    jax.lax.map(gradient, kernels), expected, rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('dtype', [None, jnp.bfloat16])
def test_layer_equals_that_of_flax(dtype, groups):
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
  options = {'features': 4, 'kernel_size': (3, 3), 'strides': 2, 'dtype': dtype}
  ours = Conv(**options, groups=groups)
  theirs = nn.Conv(
    **options,
    padding=1,
    feature_group_count=groups,
    kernel_init=ours.kernel_init,  # Flax's own, but for rounding.
  )
  variables = ours.init(jax.random.key(1), x)
  jax.tree.map(
    np.testing.assert_array_equal,
    variables,
    theirs.init(jax.random.key(1), x),
  )
  restored = ours.apply(variables, x)
  expected = theirs.apply(variables, x)
  assert restored.dtype == expected.dtype
  np.testing.assert_allclose(
    restored.astype('f4'), expected.astype('f4'), rtol=1e-2, atol=1e-2
  )


def test_wrong_channels_are_named():
  with pytest.raises(ValueError, match='not for the 3 channels of x'):
    convolution(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 2, 4)))
