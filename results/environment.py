"""What a run ran on: revision, packages and machine, without its name."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
# What a run is made of. Results, docs and tests may differ.
_CODE = ('rsdjax', 'coic', 'trnr', 'common', 'configs', 'pyproject.toml')


def describe() -> dict[str, Any]:
  """Revision, versions and machine, for JSON.

  Returns:
    `revision` (None outside of a repository), `clean` (whether the code is that
    of the revision), `versions` by package, `cores` and `processor`.
  """
  revision = _git('rev-parse', 'HEAD')
  changes = _git('status', '--porcelain', '--', *_CODE)
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {
    'revision': revision,
    'clean': changes == '',
    'versions': {'python': platform.python_version(), **versions},
    'cores': len(os.sched_getaffinity(0))
    if hasattr(os, 'sched_getaffinity')
    else os.cpu_count(),
    'processor': processor(),
  }


def _git(*arguments: str) -> str | None:
  """Output of git in this repository; None where there is none."""
  try:
    done = subprocess.run(
      ['git', *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


def processor() -> str:
  """Name of the processor's model."""
  path = pathlib.Path('/proc/cpuinfo')
  if path.exists():
    for line in path.read_text().splitlines():
      name, _, value = line.partition(':')
      if name.strip() == 'model name':
        return value.strip()
  return platform.processor() or platform.machine()
