"""How the networks start: the values of rsd.md, section 8.3."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import weight_conversion
from rsdjax import models

NUM_CLASSES = 100
# One network of each family, made small, and the size of images to start it at.
NETWORKS = {
  'resnet18': (8, {'depths': (1, 1, 1, 1), 'width': 16}),
  'mobilenetv2_100': (8, {'groups': ((1, 16, 1, 1), *[(6, 24, 1, 2)] * 6)}),
  'convnext_tiny': (32, {'depths': (1, 1, 1, 1), 'width': 32}),
  'deit_tiny_patch16_224': (64, {'depth': 2}),
  'swin_pico_patch4_window7_224': (
    32,
    {'depths': (1, 1, 1, 1), 'window_size': 4},
  ),
  'mixer_b16_224': (32, {'depth': 2, 'width': 192}),
  'resmlp_12_224': (32, {'depth': 2}),
}


def run(function):
  """Calls a function of a key, of a kind that is quick to compile."""
  return jax.device_get(jax.jit(function)(jax.random.key(0, impl='rbg')))


@functools.cache
def leaves(name):
  """Leaves of a fresh network by path. The forward pass is never run."""
  size, overrides = NETWORKS[name]
  model = models.create(
    name, num_classes=NUM_CLASSES, image_size=size, **overrides
  )
  images = jnp.zeros((1, size, size, 3))
  return weight_conversion.flatten(run(lambda rng: model.init(rng, images)))


def fitting(name, pattern):
  found = {k: x for k, x in leaves(name).items() if re.search(pattern, k)}
  assert found, f'{name} has no {pattern}'
  return found.items()


def fan_out(shape):
  return math.prod(shape[:-2]) * shape[-1]


@pytest.mark.parametrize(
  ('name', 'pattern', 'value'),
  [
    ('resnet18', r'block\d/norm2/scale', 0),  # The last of every block.
    ('resnet18', r'(stem_norm|norm1|shortcut_norm)/scale', 1),
    ('resnet18', r'norm\d?/bias', 0),
    ('mobilenetv2_100', r'norm/scale', 1),
    ('mobilenetv2_100', r'bias', 0),
    ('convnext_tiny', r'layer_scale', 1e-6),
    ('convnext_tiny', r'bias', 0),
    ('deit_tiny_patch16_224', r'(attention|mlp|classifier).*bias', 0),
    ('swin_pico_patch4_window7_224', r'(attention|mlp|classifier).*bias', 0),
    ('mixer_b16_224', r'classifier', 0),
    ('mixer_b16_224', r'patches/conv/bias', 0),
    ('resmlp_12_224', r'classifier', 0),
    ('resmlp_12_224', r'layer_scale', 1e-4),
    ('resmlp_12_224', r'alpha', 1),
    ('resmlp_12_224', r'beta|linear_tokens/bias|patches/conv/bias', 0),
  ],
)
def test_constants(name, pattern, value):
  for _, x in fitting(name, pattern):
    np.testing.assert_array_equal(x, np.full_like(x, value))


@pytest.mark.parametrize(
  ('name', 'pattern', 'deviation'),
  [
    ('resnet18', r'conv.*kernel', lambda s: math.sqrt(2 / fan_out(s))),
    # Depthwise kernels have one input channel: their own fan-out is 3 * 3.
    ('mobilenetv2_100', r'depthwise.*kernel', lambda s: math.sqrt(2 / 9)),
    (
      'mobilenetv2_100',
      r'(stem|head|expand|project)/conv/kernel',
      lambda s: math.sqrt(2 / fan_out(s)),
    ),
    ('convnext_tiny', r'kernel', lambda s: 0.02),
    ('deit_tiny_patch16_224', r'(attention|mlp|classifier).*kernel', None),
    ('deit_tiny_patch16_224', r'position_embedding', None),
    ('deit_tiny_patch16_224', r'class_token', lambda s: 1e-6),
    (
      'swin_pico_patch4_window7_224',
      r'(attention|mlp|reduction|classifier).*kernel|table',
      None,
    ),
    ('mixer_b16_224', r'mlp.*bias', lambda s: 1e-6),
    ('mixer_b16_224', r'patches/conv/kernel', lambda s: (16 * 16 * 3) ** -0.5),
    ('resmlp_12_224', r'mlp.*bias', lambda s: 1e-6),
  ],
)
def test_normal_values(name, pattern, deviation):
  for path, x in fitting(name, pattern):
    expected = 0.02 if deviation is None else deviation(x.shape)
    # Five deviations of the estimate from so many values.
    tolerance = 5 / math.sqrt(2 * x.size)
    assert x.std() == pytest.approx(expected, rel=tolerance), path


@pytest.mark.parametrize(
  ('name', 'pattern', 'limit'),
  [
    ('resnet18', r'classifier/', lambda s: 128**-0.5),
    ('mobilenetv2_100', r'classifier/kernel', lambda s: NUM_CLASSES**-0.5),
    (
      'deit_tiny_patch16_224',
      r'patches/conv/',
      lambda s: (16 * 16 * 3) ** -0.5,
    ),
    (
      'swin_pico_patch4_window7_224',
      r'patches/conv/',
      lambda s: (4 * 4 * 3) ** -0.5,
    ),
    ('mixer_b16_224', r'mlp.*kernel', lambda s: math.sqrt(6 / sum(s))),
    (
      'resmlp_12_224',
      r'(mlp|tokens).*kernel',
      lambda s: math.sqrt(6 / sum(s)),
    ),
  ],
)
def test_uniform_values(name, pattern, limit):
  for path, x in fitting(name, pattern):
    bound = limit(x.shape)
    # A uniform variable of n draws comes within a few times 1/n of its limit.
    assert 1 - 20 / x.size < np.abs(x).max() / bound <= 1 + 1e-6, path
    tolerance = 5 / math.sqrt(2 * x.size)
    assert x.std() == pytest.approx(bound / 3**0.5, rel=tolerance), path


def test_resnet_blocks_start_as_their_shortcuts():
  model = models.create(
    'resnet20', num_classes=NUM_CLASSES, depths=(3, 1, 1), image_size=8
  )
  images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  outputs, _ = run(
    lambda rng: model.init_with_output(rng, images, train=True, features=True)
  )
  np.testing.assert_array_equal(*outputs['features'][:2])
