"""Rain kernels: range, shape, variety, initialisers."""

import jax
import numpy as np
import pytest

from coic import rain_kernels


@pytest.mark.parametrize(('count', 'size'), [(32, 9), (1, 1), (5, 3), (100, 9)])
def test_rendered_kernels_have_the_published_range(count, size):
  kernels = rain_kernels.rendered_kernels(count, size)
  assert kernels.shape == (size, size, count, 3)
  assert kernels.dtype == np.float32
  assert kernels.min() >= 0
  sums = kernels.sum((0, 1))
  assert sums.min() >= 0.139 - 1e-6
  assert sums.max() <= 0.997 + 1e-6
  np.testing.assert_array_equal(kernels[..., :1].repeat(3, -1), kernels)
  again = rain_kernels.rendered_kernels(count, size)
  np.testing.assert_array_equal(again, kernels)


def test_rendered_kernels_are_streaks_of_many_directions():
  kernels = rain_kernels.rendered_kernels()[..., 0]
  # Symmetric about the centre, and brightest there.
  np.testing.assert_allclose(kernels[::-1, ::-1], kernels, rtol=1e-6)
  flat = kernels.reshape(81, 32)
  np.testing.assert_array_equal(flat.argmax(0), 40)
  # Higher than wide, leaning to the left and to the right.
  offset = np.arange(-4, 5)
  down, right = np.meshgrid(offset, offset, indexing='ij')
  mass = kernels.sum((0, 1))
  moments = [
    np.einsum('ij,ijn->n', product, kernels) / mass
    for product in (down * down, right * right, down * right)
  ]
  assert (moments[0] > moments[1]).all()
  assert 0.3 < (moments[2] > 0).mean() < 0.7
  normed = flat / np.linalg.norm(flat, axis=0)
  similarity = normed.T @ normed - 2 * np.eye(32)
  assert similarity.max() < 0.999  # No two have one shape.


def test_the_range_is_that_of_the_published_file(shared):
  with np.load(shared('checkpoints/coic/rain_kernel.npz')) as file:
    sums = file['C9'].sum((2, 3))
  low, high = rain_kernels._SUMS
  assert abs(sums.min() - low) < 5e-4
  assert abs(sums.max() - high) < 5e-4


def test_initialisers():
  key, shape = jax.random.key(0), (3, 3, 2, 3)
  rendered = rain_kernels.rendered_dictionary(key, shape)
  np.testing.assert_array_equal(rendered, rain_kernels.rendered_kernels(2, 3))
  kernels = np.arange(54, dtype=np.float64).reshape(shape)
  given = rain_kernels.given_dictionary(kernels)(key, shape)
  assert given.dtype == np.float32
  np.testing.assert_array_equal(given, kernels)


def test_errors():
  with pytest.raises(ValueError, match='count = 0 must be positive'):
    rain_kernels.rendered_kernels(0)
  with pytest.raises(ValueError, match='size = 4 positive and odd'):
    rain_kernels.rendered_kernels(2, 4)
  given = rain_kernels.given_dictionary(np.zeros((3, 2, 9, 9)))
  with pytest.raises(
    ValueError, match=r'\[3, 2, 9, 9\] must be \[9, 9, 2, 3\]'
  ):
    given(jax.random.key(0), (9, 9, 2, 3))
  with pytest.raises(ValueError, match=r'must be \[3, 5, 2, 3\]'):
    rain_kernels.rendered_dictionary(jax.random.key(0), (3, 5, 2, 3))


def test_published_file(tmp_path):
  kernels = np.arange(54, dtype=np.float64).reshape(3, 2, 3, 3)
  np.savez(tmp_path / 'kernels.npz', C9=kernels)
  init = rain_kernels.read_dictionary(tmp_path / 'kernels.npz')
  dictionary = init(jax.random.key(0), (3, 3, 2, 3))
  assert dictionary[1, 2, 0, 2] == kernels[2, 0, 1, 2]
  np.savez(tmp_path / 'others.npz', C7=kernels)
  with pytest.raises(ValueError, match=r"no array C9, but \['C7'\]"):
    rain_kernels.read_dictionary(tmp_path / 'others.npz')
