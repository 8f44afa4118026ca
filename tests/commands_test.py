"""What every command has in common: help with an example, and Ctrl-C."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ('rsdjax', 'coic', 'trnr', 'common')


def _commands():
  """Modules that can be run with `python -m`."""
  return [
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix(
      '.__main__'
    )
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob('*.py'))
    if "if __name__ == '__main__':" in path.read_text()
  ]


# Each in a fork of one process, which has imported what most of them import.
_IN_FORKS = """
import os, runpy, sys
import common.commands, common.training_loop
folder, *names = sys.argv[1:]
for name in names:
  if not os.fork():
    output = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1), os.dup2(output, 2)
    sys.argv = [name, '--help']
    runpy.run_module(name, run_name='__main__', alter_sys=True)
    sys.exit()
  print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.fixture(scope='module')
def helps(tmp_path_factory):
  """Exit code of each command with `--help`, and what it says."""
  folder, names = tmp_path_factory.mktemp('helps'), _commands()
  codes = subprocess.run(
    [sys.executable, '-c', _IN_FORKS, folder, *names],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
    check=True,
  ).stdout.split()
  return {
    name: (int(code), (folder / name).read_text())
    for name, code in zip(names, codes, strict=True)
  }


@pytest.mark.parametrize('name', _commands())
def test_help(helps, name):
  code, text = helps[name]
  assert code == 0, text
  assert re.search(rf'python -m {re.escape(name)}\b', text)
  if '--config' in text:
    assert '--config.FIELD=VALUE' in text or 'usage' in text


def test_ctrl_c_leaves_no_half_written_file(tmp_path):
  folder, output = tmp_path / 'clean', tmp_path / 'restored'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for number in range(300):
    pixels = rng.integers(256, size=(200, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f'{number:03}.png')
  script = (
    'import signal, sys, time\n'
    'from common import console, restoration\n'
    # What is started in the background of a script ignores Ctrl-C.
    'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    # Not so fast that all is done before the signal comes.
    'restore = lambda image: time.sleep(0.05) or image\n'
    'console.run(lambda: restoration.restore_files('
    'restore, [sys.argv[1]], sys.argv[2]))'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', script, str(folder), str(output)],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 60
  while len(list(output.glob('*.png'))) < 3:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGINT)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 130
  assert error.endswith('stopped by Ctrl-C\n') and 'Traceback' not in error
  written = [path for path in output.rglob('*') if path.is_file()]
  assert 3 <= len(written) < 300
  for path in written:
    assert path.suffix == '.png' and not path.name.startswith('.')
    np.testing.assert_array_equal(
      np.asarray(Image.open(path)), np.asarray(Image.open(folder / path.name))
    )
