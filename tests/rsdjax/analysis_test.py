"""CKA and correlations by hand, and on a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsdjax import analysis


def _features(batch, dim, seed):
  return jax.random.normal(jax.random.key(seed), (batch, dim))


def test_hsic_equals_its_definition():
  """Against the sums over distinct indices that the estimate stands for."""
  a, b = _features(5, 3, 0), _features(5, 2, 1)
  k, m = np.asarray(a @ a.T, np.float64), np.asarray(b @ b.T, np.float64)
  n = 5
  indices = range(n)
  pairs = sum(k[i, j] * m[i, j] for i in indices for j in indices if i != j)
  triples = sum(
    k[i, j] * m[i, q]
    for i in indices
    for j in indices
    for q in indices
    if len({i, j, q}) == 3
  )
  quads = sum(
    k[i, j] * m[q, r]
    for i in indices
    for j in indices
    for q in indices
    for r in indices
    if len({i, j, q, r}) == 4
  )
  expected = (
    pairs / (n * (n - 1))
    + quads / (n * (n - 1) * (n - 2) * (n - 3))
    - 2 * triples / (n * (n - 1) * (n - 2))
  )
  np.testing.assert_allclose(analysis.hsic(a, b), expected, rtol=1e-5)


def test_cka_knows_the_same_from_the_unrelated():
  a = _features(64, 6, 0)
  rotation = jnp.linalg.qr(_features(6, 6, 1))[0]
  batches = [a[:32], a[32:]]
  same = analysis.linear_cka((x, 3.0 * x @ rotation + 7.0) for x in batches)
  np.testing.assert_allclose(same, 1.0, rtol=1e-4)
  other = _features(64, 5, 2)
  unrelated = analysis.linear_cka([(a[:32], other[:32]), (a[32:], other[32:])])
  assert abs(unrelated) < 0.15


def test_cka_does_not_depend_on_the_batch_size():
  """Unlike the biased estimate, which grows as batches shrink."""
  a = _features(960, 6, 0)
  b = jnp.concatenate([a[:, :2], _features(960, 4, 1)], axis=1)
  values = [
    analysis.linear_cka(
      (a[i : i + size], b[i : i + size]) for i in range(0, 960, size)
    )
    for size in (8, 96)
  ]
  np.testing.assert_allclose(values[0], values[1], atol=0.06)


def test_correlation_summary_by_hand():
  matrix = jnp.array([[0.5, -0.2], [0.4, 1.0]])
  summary = analysis.correlation_summary(matrix)
  np.testing.assert_allclose(summary['diagonal'], 0.75, rtol=1e-6)
  np.testing.assert_allclose(summary['off_diagonal'], 0.3, rtol=1e-6)


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r'a \[3, 2\] must hold at least 4'):
    analysis.hsic(jnp.ones((3, 2)), jnp.ones((3, 2)))
  with pytest.raises(ValueError, match='the same batch size'):
    analysis.hsic(jnp.ones((4, 2)), jnp.ones((5, 2)))
  with pytest.raises(ValueError, match='no batch'):
    analysis.linear_cka([])
  with pytest.raises(ValueError, match='correlation'):
    analysis.correlation_summary(jnp.ones((2, 3)))
