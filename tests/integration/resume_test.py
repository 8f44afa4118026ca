"""Runs that are killed, asked to end, or moved, end as if left alone."""

import os
import random
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from common.checkpoints import load_model
from common.weight_conversion import flatten
from tests.integration import commands

STEPS = 60


def command(workdir, *options):
  return [
    'rsdjax.main',
    f'--config={commands.ROOT}/configs/rsd/digits.py:smoke',
    f'--workdir={workdir}',
    f'--config.train.num_steps={STEPS}',
    '--config.train.save_every_steps=2',
    '--config.train.eval_every_steps=20',
    '--config.train.log_every_steps=5',
    '--config.train.batch_size=16',
    '--config.teacher.num_steps=4',
    '--config.model.depth=1',
    # The same on any number of devices.
    '--config.train.batch_norm=global',
    '--config.distiller.rsd.statistics=global',
    *options,
  ]


@pytest.fixture(scope='module')
def machine(tmp_path_factory):
  """Two devices, and one compilation cache for all runs."""
  cache = tmp_path_factory.mktemp('cache')
  return {
    'devices': 2,
    'environment': {'JAX_COMPILATION_CACHE_DIR': str(cache)},
  }


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, machine):
  """The folder of a run in one go."""
  workdir = tmp_path_factory.mktemp('uninterrupted')
  commands.run(*command(workdir), **machine)
  return workdir


def checkpointed_step(workdir):
  folder = workdir / 'checkpoints'
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  return max((int(n) for n in names if n.isdigit()), default=0)


def wait_for(workdir, step, process):
  deadline = time.monotonic() + 300
  while checkpointed_step(workdir) < step:
    assert process.poll() is None, 'the run ended before it was to'
    assert time.monotonic() < deadline
    time.sleep(0.01)


def assert_same(workdir, expected):
  for name in ('model.safetensors', 'teacher/model.safetensors'):
    assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name


def test_killed_run_continues_exactly(tmp_path, machine, uninterrupted):
  # Killed twice: early in the student's run, and later.
  for after in (2, 24):
    (process,) = commands.start(*command(tmp_path), **machine)
    wait_for(tmp_path, after, process)
    process.kill()
    process.communicate()
    assert not (tmp_path / 'model.safetensors').exists()
    assert checkpointed_step(tmp_path) < STEPS
  (finished,) = commands.run(*command(tmp_path), **machine)
  # The teacher's line comes first, then the student's.
  lines = re.findall(r'continuing from step (\d+)', finished.err)
  assert 24 <= int(lines[-1]) < STEPS
  assert_same(tmp_path, uninterrupted)

  # A finished run has nothing left to do, and says what it scored.
  (again,) = commands.run(*command(tmp_path), **machine)
  assert again.out == finished.out and 'test_top1' in again.out


def test_a_run_that_is_asked_to_end(tmp_path, machine, uninterrupted):
  (process,) = commands.start(*command(tmp_path), **machine)
  wait_for(tmp_path, 4, process)
  process.terminate()
  asked = time.monotonic()
  (ended,) = commands.outcomes([process])
  assert time.monotonic() - asked < 30  # Seconds, on a busy machine.
  assert ended.code == 0
  (step,) = re.findall(r'asked to end by SIGTERM: step (\d+) is', ended.err)
  assert 4 <= int(step) == checkpointed_step(tmp_path) < STEPS
  commands.run(*command(tmp_path), **machine)
  assert_same(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_twenty_kills(tmp_path, machine, uninterrupted, processes):
  """At random moments, of one process or of all, writing or not."""
  chance = random.Random(processes)
  options = machine | {'devices': 2 // processes, 'processes': processes}
  # One step after another is written; the run is as long as 20 kills need.
  arguments = command(tmp_path, '--config.train.save_every_steps=1')
  for _ in range(20):
    before = checkpointed_step(tmp_path)
    started = commands.start(*arguments, **options)
    if before < STEPS - 6:
      wait_for(tmp_path, before + 1, started[0])
    time.sleep(chance.random() * 0.3)
    one = chance.choice(started)
    os.kill(one.pid, signal.SIGKILL)
    if chance.random() < 0.5:
      time.sleep(0.2)  # The others have lost it, and know or not.
    for process in started:
      process.kill()
      process.communicate()
    if (tmp_path / 'model.safetensors').exists():
      break
  commands.run(*arguments, **options)
  assert_same(tmp_path, uninterrupted)


@pytest.mark.slow
def test_other_devices_and_processes_take_a_run_up(tmp_path, machine):
  # Adam would make much of gradients that are zero but for rounding.
  plain = [
    '--config.optimizer.name=sgd',
    '--config.optimizer.learning_rate=0.002',
  ]
  at_once, moved = tmp_path / 'at_once', tmp_path / 'moved'
  commands.run(*command(at_once, *plain), **machine)
  shapes = [(2, 1), (1, 4), (2, 2), (1, 1)]
  for number, (processes, devices) in enumerate(shapes):
    options = machine | {'processes': processes, 'devices': devices}
    started = commands.start(*command(moved, *plain), **options)
    if number == len(shapes) - 1:
      break
    wait_for(moved, checkpointed_step(moved) + 4, started[0])
    # One gets the notice, and all end.
    started[-1].terminate()
    ended = commands.outcomes(started)
    assert [x.code for x in ended] == [0] * processes, ended[0].err[-2000:]
    assert 'asked to end by SIGTERM' in ended[0].err
  assert [x.code for x in commands.outcomes(started)] == [0]
  found, expected = (
    flatten(load_model(folder / 'model.safetensors')[0])
    for folder in (moved, at_once)
  )
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_data_worker_that_dies(tmp_path, machine):
  arguments = command(tmp_path, '--config.train.data_workers=2')
  arguments += ['--config.train.num_steps=100000']
  (process,) = commands.start(*arguments, **machine)
  wait_for(tmp_path, 4, process)
  children = subprocess.run(
    ['pgrep', '--parent', str(process.pid), '--full', 'spawn_main'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  os.kill(int(children.split()[0]), signal.SIGKILL)
  (ended,) = commands.outcomes([process])
  assert ended.code == 1
  (step,) = re.findall(
    r'could not be read: .*; the state after step (\d+) is saved', ended.err
  )
  assert int(step) == checkpointed_step(tmp_path)
