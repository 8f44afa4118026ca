"""Images beside each other see nothing of each other."""

import itertools

import jax
import numpy as np
import pytest

from common.layers import wide_convolution
from common.layers.wide_convolution import images_in_a_row


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('dilation', [1, 2])
@pytest.mark.parametrize('side', [1, 2, 3])
def test_equals_the_plain_one(stride, dilation, side):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 6, 7, 3)).astype(np.float32)
  kernel = rng.normal(size=(side, side, 3, 2)).astype(np.float32)
  strides, dilations = (stride, stride), (dilation, dilation)
  for left, right in itertools.product((-2, 0, 1, 3), (-1, 0, 2, 4)):
    padding = ((1, 1), (left, right))
    expected = jax.lax.conv_general_dilated(
      x,
      kernel,
      strides,
      padding,
      rhs_dilation=dilations,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    for images in (2, 4):
      found = wide_convolution.wide_convolution(
        x, kernel, images, strides, padding, dilations
      )
      assert found.shape == expected.shape
      np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
  ('shape', 'features', 'images'),
  [
    ((12, 64, 64, 48), 48, 4),
    ((128, 16, 16, 32), 32, 32),
    ((5, 64, 64, 48), 48, 5),  # The first divisor with enough is the batch.
    ((3, 64, 64, 48), 48, 3),  # All of them are not enough.
    ((12, 100, 100, 96), 128, 1),  # Enough as it is.
    ((128, 32, 32, 16), 16, 1),  # Too few channels.
    ((1, 64, 64, 48), 48, 1),
  ],
)
def test_images_of_a_row_on_two_cores(shape, features, images, monkeypatch):
  monkeypatch.setattr(wide_convolution.os, 'cpu_count', lambda: 2)
  kernel = (3, 3, shape[3], features)
  assert images_in_a_row(shape, kernel, 1) == images
