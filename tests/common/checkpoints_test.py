import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common import checkpoints, distributed
from common.train_state import TrainState


def _state(width=3, value=0.0, devices=8):
  tx = optax.adam(0.1)
  state = TrainState.create(
    params={'student': {'kernel': jnp.full((2, width), value)}},
    model_state={'student': {'batch_stats': {'mean': jnp.zeros(width)}}},
    tx=tx,
    rng=jax.random.key(int(value)),
  )
  return distributed.replicate(
    state, distributed.make_mesh(jax.devices()[:devices])
  )


def _equal(a, b):
  a, b = (checkpoints._raw_keys(x) for x in (a, b))
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_last_and_best_are_kept_and_read_back(tmp_path):
  progress = {'data_position': 4, 'seconds': 0.1, 'scores': {'top1': 0.125}}
  with checkpoints.Checkpoints(tmp_path, best_metric='top1') as kept:
    assert kept.last_step is None and kept.best_step is None
    for step, score in ((1, 0.3), (2, 0.9), (3, 0.5), (4, None)):
      scores = None if score is None else {'top1': score}
      kept.save(step, _state(value=step), progress, scores)
  with checkpoints.Checkpoints(tmp_path, best_metric='top1') as kept:
    assert (kept.last_step, kept.best_step) == (4, 2)
    state, found = kept.restore(_state())
    _equal(state, _state(value=4.0))
    assert found == progress
    best, _ = kept.restore(_state(), kept.best_step)
    _equal(best, _state(value=2.0))


def test_another_device_count_reads_it(tmp_path):
  with checkpoints.Checkpoints(tmp_path) as kept:
    kept.save(1, _state(value=1.0, devices=8), {'data_position': 1})
  with checkpoints.Checkpoints(tmp_path) as kept:
    state, _ = kept.restore(_state(devices=2))
  _equal(state, _state(value=1.0))
  assert len(state.params['student']['kernel'].devices()) == 2


def test_another_model_is_named(tmp_path):
  with checkpoints.Checkpoints(tmp_path) as kept:
    kept.save(1, _state(width=3), {'data_position': 1})
  message = (
    r'is of another model: .*params/student/kernel has shape \[2, 3\], '
    r'expected \[2, 5\]'
  )
  with (
    checkpoints.Checkpoints(tmp_path) as kept,
    pytest.raises(ValueError, match=message),
  ):
    kept.restore(_state(width=5))


def test_exported_model_round_trips(tmp_path):
  path = tmp_path / 'model.safetensors'
  variables = {
    'params': {'a': {'kernel': np.arange(6.0).reshape(2, 3)}},
    'batch_stats': {'mean': jnp.ones(3)},
  }
  description = {'model': {'name': 'toy', 'num_classes': 10}}
  checkpoints.export_model(path, variables, description)
  loaded, found = checkpoints.load_model(path)
  assert found == description
  jax.tree.map(np.testing.assert_array_equal, loaded, variables)
  assert list(tmp_path.iterdir()) == [path]


def test_damaged_and_foreign_model_files_are_named(tmp_path):
  path = tmp_path / 'model.safetensors'
  with pytest.raises(
    FileNotFoundError, match=r'model.safetensors is not there'
  ):
    checkpoints.load_model(path)
  checkpoints.export_model(path, {'params': {'a': np.zeros(99)}}, {})
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    checkpoints.load_model(path)
  from safetensors import numpy as safetensors_numpy

  safetensors_numpy.save_file({'a': np.zeros(3)}, path)
  with pytest.raises(ValueError, match='has no description of a model'):
    checkpoints.load_model(path)


def test_differences_are_listed():
  found = {'params': {'a': np.zeros(2), 'c': np.zeros(1)}}
  expected = {'params': {'a': np.zeros(3), 'b': np.zeros(1)}}
  with pytest.raises(ValueError) as error:
    checkpoints.require_same_variables(found, expected, 'here')
  assert str(error.value) == (
    'here is of another model: params/b is missing; params/c is not part of '
    'the model; params/a has shape [2], expected [3]'
  )
