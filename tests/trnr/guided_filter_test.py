import jax.numpy as jnp
import numpy as np
import pytest

from trnr.guided_filter import box_sum, guided_filter


def nhwc(x):
  return jnp.asarray(x).transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
  ('name', 'colour', 'itself', 'options'),
  [
    ('color_r4_e2', True, False, {'radius': 4, 'epsilon': 1e-2}),
    ('color_r15_e8_self', True, True, {'radius': 15, 'epsilon': 1e-8}),
    ('gray_r5_e3', False, False, {'radius': 5, 'epsilon': 1e-3}),
    (
      'fast_color_r8_e3_s2',
      True,
      False,
      {'radius': 8, 'epsilon': 1e-3, 'subsampling': 2},
    ),
    (
      'fast_gray_r6_e2_s2',
      False,
      False,
      {'radius': 6, 'epsilon': 1e-2, 'subsampling': 2},
    ),
  ],
)
def test_stored_numbers(golden, name, colour, itself, options):
  stored = golden('trnr/guided_filter.npz')
  guide, source = nhwc(stored['guide']), nhwc(stored['src'])
  filtered = guided_filter(
    guide if colour else guide[..., :1], guide if itself else source, **options
  )
  expected = stored[f'{name}_f64'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(filtered, expected, atol=2e-6)


def test_box_sum(golden):
  stored = golden('trnr/guided_filter.npz')
  summed = box_sum(nhwc(stored['src']), 3).transpose(0, 3, 1, 2)
  np.testing.assert_allclose(summed, stored['box_r3'], rtol=2e-6)


def test_box_sum_is_cut_at_the_border():
  ones = jnp.ones((1, 3, 4, 1))
  expected = np.outer([2, 3, 2], [2, 3, 3, 2])
  np.testing.assert_array_equal(box_sum(ones, 1)[0, :, :, 0], expected)


def test_a_linear_function_of_the_guide_stays_as_it_is():
  guide = jnp.asarray(np.random.default_rng(0).random((1, 12, 12, 3)), 'f4')
  source = guide @ jnp.asarray([[1.0, 0], [2, -1], [0, 0.5]]) + 0.25
  filtered = guided_filter(guide, source, radius=3, epsilon=1e-8)
  np.testing.assert_allclose(filtered, source, atol=1e-4)


def test_errors_name_the_arguments():
  image = jnp.zeros((1, 12, 12, 3))
  with pytest.raises(ValueError, match='sides of at least 31'):
    guided_filter(image, image, radius=15, epsilon=1e-3)
  with pytest.raises(ValueError, match=r'guide .* 1 or 3 channels'):
    guided_filter(image[..., :2], image, radius=1, epsilon=1e-3)
