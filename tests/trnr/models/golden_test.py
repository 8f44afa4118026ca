"""Networks against stored outputs of the published program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trnr import convert, models

# Float32 against float32; the reference differs from itself in float64 by 4e-6.
TOLERANCE = 2e-5
OTHER = (
  'noise_gray_2stages',
  'noise_color_1stage',
  'derain_1stage',
  'derain_agg_2stages',
  'derain_rb_variant_1stage',
  'derain_no_attention_1stage',
  'ddn16',
  'adn16',
  'dnnet_gray_6x64',
)


def nhwc(x):
  return jnp.asarray(x).transpose(0, 2, 3, 1)


def assert_close(actual, desired, tolerance=TOLERANCE):
  np.testing.assert_allclose(
    actual.transpose(0, 3, 1, 2), desired, rtol=2e-6, atol=tolerance
  )


@pytest.mark.parametrize('name', ['rain100l', 'rain100h'])
def test_published_network(name, golden, published):
  stored, variables = golden(f'trnr/forward_{name}.npz'), published(name)
  network = models.create('msresnet')
  for i in range(3):
    restored = network.apply(variables, nhwc(stored[f'x{i}']))
    assert_close(restored, stored[f'y{i}'])
  restored, state = network.apply(
    variables, nhwc(stored['x_train']), train=True, mutable=['batch_stats']
  )
  assert_close(restored, stored['y_train'])
  statistics = state['batch_stats']
  for layer, path in {
    'body1_msb_bn': ('stage1', 'multi_scale'),
    'body2_rb_cbr3_bn': ('stage2', 'residual', 'unit3'),
    'body4_rb_bn': ('stage4', 'residual', 'last'),
    'bn_tail': ('transition',),
  }.items():
    found = statistics
    for part in (*path, 'norm'):
      found = found[part]
    for ours, theirs in (('mean', 'r_mean'), ('var', 'r_var')):
      np.testing.assert_allclose(
        found[ours], stored[f'after_{layer}_{theirs}'], rtol=1e-5, atol=1e-7
      )


@pytest.mark.parametrize('name', ['rain100l', 'rain100h'])
def test_blocks(name, golden, published):
  stored, variables = golden(f'trnr/blocks_{name}.npz'), published(name)
  restored, state = models.create('msresnet').apply(
    variables, nhwc(stored['x']), capture_intermediates=True, mutable=True
  )
  found = {
    jax.tree_util.keystr(path, simple=True, separator='/'): value
    for path, value in jax.tree_util.tree_leaves_with_path(
      state['intermediates']
    )
  }
  assert_close(restored, stored['y'])
  pairs = {
    'head': 'head_conv',
    'stage1/multi_scale/first_dilation1': 'b1_msb_first_d1',
    'stage1/multi_scale/first_dilation2': 'b1_msb_first_d2',
    'stage1/multi_scale/first_dilation3': 'b1_msb_first_d3',
    'stage1/multi_scale/second_dilation1': 'b1_msb_second_d1',
    'stage1/multi_scale/second_dilation2': 'b1_msb_second_d2',
    'stage1/multi_scale/second_dilation3': 'b1_msb_second_d3',
    'stage1/multi_scale/norm': 'b1_msb_bn',
    'stage1/multi_scale/attention': 'b1_msb_se',
    'stage1/multi_scale': 'b1_msb',
    'stage1/residual/unit1_activation': 'b1_rb_cbr1',
    'stage1/residual/unit2_activation': 'b1_rb_cbr2',
    'stage1/residual/unit3_activation': 'b1_rb_cbr3',
    'stage1/residual/unit4_activation': 'b1_rb_cbr4',
    'stage1/residual/last/conv': 'b1_rb_trans',
    'stage1/residual/last/norm': 'b1_rb_bn',
    'stage1/residual': 'b1_rb',
    'stage1': 'body1',
    'stage2': 'body2',
    'stage3': 'body3',
    'stage4': 'body4',
    'transition/conv': 'tail_conv',
    'transition/norm': 'tail_bn',
    'transition/attention': 'tail_se',
    'tail': 'tail_residual',
  }
  for ours, theirs in pairs.items():
    assert_close(found[f'{ours}/__call__/0'], stored[theirs])


@pytest.mark.parametrize('name', OTHER)
def test_other_networks(name, golden, rule_filled):
  stored, tensors = golden('trnr/other_nets.npz'), rule_filled[name]
  description = convert.describe(tensors)
  network = models.create(**description)
  variables = convert.from_torch(tensors)
  count = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert count == stored[f'{name}_nparams']
  image = nhwc(stored[f'{name}_x'])
  options = {}
  if description.get('noise_map'):
    options['sigma'] = jnp.asarray(stored['sigma'])
  restored = network.apply(variables, image, **options)
  expected = stored.get(f'{name}_y_eval', stored.get(f'{name}_y'))
  assert_close(restored, expected)
  if f'{name}_y_train' not in stored or name == 'ddn16':
    return  # ADN has no training mode, DDN a test of its own.
  restored, _ = network.apply(
    variables, image, train=True, mutable=['batch_stats'], **options
  )
  assert_close(restored, stored[f'{name}_y_train'])


def test_ddn_in_training_mode(golden, rule_filled):
  # On this picture the guided filter, with itself and a tiny epsilon, leaves
  # details of 4e-7. They are rounding noise in float32, which batch statistics
  # blow up: the stored float32 numbers are 7e-3 from those in float64.
  stored, tensors = golden('trnr/other_nets.npz'), rule_filled['ddn16']
  with jax.enable_x64(True):
    variables = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), convert.from_torch(tensors)
    )
    restored, _ = models.create('ddn').apply(
      variables,
      nhwc(stored['ddn16_x']).astype(jnp.float64),
      train=True,
      mutable=['batch_stats'],
    )
  assert_close(restored, stored['ddn16_y_train'], 1e-2)
