import functools

import jax.numpy as jnp
import numpy as np
import pytest

from common import distributed, evaluation, steps


def _eval_step(scale, batch, *, axis_name=None):
  value = evaluation.masked_sum(scale * batch['x'], batch['mask'])
  return distributed.psum({'value': value}, axis_name)


def _batches(size):
  """Seven examples 0..6, padded to whole batches with a wrong value."""
  total = -(-7 // size) * size
  x = np.full(total, 1e6, np.float32)
  mask = np.zeros(total, np.float32)
  x[:7], mask[:7] = np.arange(7), 1
  for start in range(0, total, size):
    rows = slice(start, start + size)
    yield {'x': x[rows], 'mask': mask[rows]}


@pytest.mark.parametrize('size', [1, 3, 8])
def test_each_example_counts_once(size):
  scores = evaluation.evaluate(_eval_step, jnp.float32(2.0), _batches(size))
  assert scores == {'value': 6.0}


@pytest.mark.parametrize('parallelism', distributed.PARALLELISMS)
def test_each_example_counts_once_on_eight_devices(parallelism):
  mesh = distributed.make_mesh()
  step = steps.map_step(
    functools.partial(_eval_step, axis_name=distributed.AXIS_NAME),
    mesh,
    parallelism=parallelism,
  )
  sharded = (distributed.shard_batch(b, mesh, parallelism) for b in _batches(8))
  assert evaluation.evaluate(step, jnp.float32(2.0), sharded) == {'value': 6.0}


def test_nothing_to_evaluate_is_an_error():
  with pytest.raises(ValueError, match='no example'):
    evaluation.evaluate(_eval_step, jnp.float32(2.0), [])
