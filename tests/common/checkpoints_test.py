import os
import pathlib
import re
import subprocess
import sys

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


def _saved_twice(tmp_path):
  with checkpoints.Checkpoints(tmp_path) as kept:
    for step in (10, 20):
      kept.save(step, _state(value=step), {'data_position': step})


def _biggest(folder):
  return max(folder.rglob('*'), key=lambda p: p.stat().st_size * p.is_file())


def _truncate(folder):
  path = _biggest(folder)
  path.write_bytes(path.read_bytes()[:-5])


def _remove(folder):
  _biggest(folder).unlink()


def _empty(folder):
  _biggest(folder).write_bytes(b'')


def _flip(folder):
  path = _biggest(folder)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


def _empty_all(folder):
  for path in folder.rglob('*'):
    if path.is_file():
      path.write_bytes(b'')


DAMAGES = {
  _truncate: r'has \d+ bytes, not \d+',
  _remove: 'is missing',
  _empty: 'has 0 bytes, not',
  _flip: 'has other contents than were saved',
  _empty_all: 'has 0 bytes, not',
}


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda f: f.__name__[1:])
def test_damage_is_named_and_the_one_before_is_read(tmp_path, damage, caplog):
  _saved_twice(tmp_path)
  damage(tmp_path / 'checkpoints' / '20')
  with checkpoints.Checkpoints(tmp_path) as kept:
    state, progress = kept.restore(_state())
    _equal(state, _state(value=10.0))
    assert progress == {'data_position': 10} and kept.last_step == 10
    # The damaged one is out of the way of what is saved next.
    kept.save(20, _state(value=21.0), {'data_position': 20})
  assert re.search(
    f'checkpoint of step 20 is damaged: .*{DAMAGES[damage]}', caplog.text
  )
  assert (tmp_path / 'damaged' / '20-0').is_dir()
  with checkpoints.Checkpoints(tmp_path) as kept:
    _equal(kept.restore(_state())[0], _state(value=21.0))


@pytest.mark.parametrize('damage', [_truncate, _empty, _remove, _empty_all])
def test_damage_without_a_digest(tmp_path, damage, caplog):
  _saved_twice(tmp_path)
  (tmp_path / 'digests.json').unlink()
  damage(tmp_path / 'checkpoints' / '20')
  with checkpoints.Checkpoints(tmp_path) as kept:
    _equal(kept.restore(_state())[0], _state(value=10.0))
  assert 'checkpoint of step 20 is damaged' in caplog.text


def test_files_that_may_not_be_read(tmp_path, caplog, monkeypatch):
  _saved_twice(tmp_path)
  opened = pathlib.Path.open

  def refused(path, *arguments, **options):
    if '20' in path.parts:
      raise PermissionError(13, 'Permission denied', str(path))
    return opened(path, *arguments, **options)

  # Tests may run as a user to whom nothing is forbidden.
  monkeypatch.setattr(pathlib.Path, 'open', refused)
  with checkpoints.Checkpoints(tmp_path) as kept:
    _equal(kept.restore(_state())[0], _state(value=10.0))
  assert 'Permission denied' in caplog.text


def test_nothing_is_left_to_read(tmp_path):
  _saved_twice(tmp_path)
  for step in ('10', '20'):
    _flip(tmp_path / 'checkpoints' / step)
  with (
    checkpoints.Checkpoints(tmp_path) as kept,
    pytest.raises(OSError, match=r'no checkpoint that can .*step 20.*step 10'),
  ):
    kept.restore(_state())
  assert len([*(tmp_path / 'damaged').iterdir()]) == 2


def test_a_full_disk_is_named_and_older_checkpoints_stay(tmp_path):
  program = """
import resource, sys
import checkpoints_test
from common import checkpoints
with checkpoints.Checkpoints(sys.argv[1]) as kept:
  kept.save(10, checkpoints_test._state(value=10), {'data_position': 10})
  kept.wait()
  # The largest size of a file: what lies beyond cannot be written.
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
  kept.save(20, checkpoints_test._state(value=20), {'data_position': 20})
  kept.wait()
"""
  result = subprocess.run(
    [sys.executable, '-c', program, str(tmp_path)],
    env=os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parent)},
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 1
  assert (
    'OSError: the checkpoint of step 20 could not be saved' in result.stderr
  )
  with checkpoints.Checkpoints(tmp_path) as kept:
    _equal(kept.restore(_state())[0], _state(value=10.0))


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
