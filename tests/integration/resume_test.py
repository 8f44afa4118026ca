"""A killed run, started again, ends as if it had never been killed."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 60


def _command(workdir, parallelism):
  return [
    sys.executable,
    '-m',
    'rsdjax.main',
    f'--config={ROOT}/configs/rsd/digits.py:smoke',
    f'--workdir={workdir}',
    f'--config.train.num_steps={STEPS}',
    '--config.train.save_every_steps=2',
    '--config.train.eval_every_steps=20',
    '--config.train.log_every_steps=5',
    '--config.train.batch_size=16',
    '--config.teacher.num_steps=4',
    '--config.model.depth=1',
    f'--config.train.parallelism={parallelism}',
  ]


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  """Two devices, and one compilation cache for all runs."""
  cache = tmp_path_factory.mktemp('cache')
  return os.environ | {
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    'JAX_COMPILATION_CACHE_DIR': str(cache),
  }


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, environment):
  """The exported student and the metrics of a run in one go."""
  workdir = tmp_path_factory.mktemp('uninterrupted')
  subprocess.run(
    _command(workdir, 'shard_map'), env=environment, cwd=ROOT, check=True
  )
  return workdir


def _checkpointed_step(workdir):
  folder = workdir / 'checkpoints'
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  return max((int(n) for n in names if n.isdigit()), default=0)


def test_killed_run_continues_exactly(tmp_path, environment, uninterrupted):
  command = _command(tmp_path, 'shard_map')
  # Killed twice: early in the student's run, and later.
  for after in (2, 24):
    with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
      deadline = time.monotonic() + 300
      while _checkpointed_step(tmp_path) < after:
        assert process.poll() is None, 'the run ended before it was killed'
        assert time.monotonic() < deadline
        time.sleep(0.01)
      process.send_signal(signal.SIGKILL)
    assert not (tmp_path / 'model.safetensors').exists()
    assert _checkpointed_step(tmp_path) < STEPS
  finished = subprocess.run(
    command, env=environment, cwd=ROOT, check=True, capture_output=True
  )
  # The teacher's line comes first, then the student's.
  lines = re.findall(rb'continuing from step (\d+)', finished.stderr)
  resumed_at = int(lines[-1])
  assert 24 <= resumed_at < STEPS
  names = ('model.safetensors', 'teacher/model.safetensors')
  for name in names:
    expected = (uninterrupted / name).read_bytes()
    assert (tmp_path / name).read_bytes() == expected, name

  # A finished run has nothing left to do, and says what it scored.
  again = subprocess.run(
    command, env=environment, cwd=ROOT, check=True, capture_output=True
  )
  assert again.stdout == finished.stdout
  assert b'test_top1' in again.stdout
