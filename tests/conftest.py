"""Eight simulated devices, strict ranks, and the stored reference numbers."""

import gc
import os
import pathlib
from collections.abc import Callable

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Most of a test's time is the compiler's, on programs that run once or twice.
# So LLVM optimises nothing, and XLA writes kernels the shorter way: that halves
# it. XLA_FLAGS may ask otherwise (the last wins).
os.environ['XLA_FLAGS'] = ' '.join(
  [
    '--xla_backend_optimization_level=0',
    '--xla_cpu_parallel_codegen_split_count=1',
    '--xla_cpu_use_fusion_emitters=false',
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
  ]
)

import jax
import numpy as np
import pytest

# Programs that JAX keeps are millions of objects: seldom look them all over.
gc.set_threshold(50_000, 20, 100)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_default_matmul_precision', 'highest')

TESTS = pathlib.Path(__file__).resolve().parent
# Programs that several tests, or several runs of the suite, compile alike.
jax.config.update(
  'jax_compilation_cache_dir', str(TESTS.parent / '.pytest_cache' / 'xla')
)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
SHARED = TESTS.parents[1] / 'shared'

Golden = dict[str, np.ndarray]


@pytest.fixture(scope='session')
def shared() -> Callable[[str], pathlib.Path]:
  """Gives the path of a shared file or folder; skips where it is absent."""

  def path_of(name: str) -> pathlib.Path:
    path = SHARED / name
    if not path.exists():
      pytest.skip(f'shared/{name} is not on this machine')
    return path

  return path_of


@pytest.fixture(scope='session')
def golden(shared) -> Callable[[str], Golden]:
  """Reads reference numbers: `golden('rsd/rsd_loss.npz')`."""

  def read(name: str) -> Golden:
    with np.load(shared(f'golden/{name}'), allow_pickle=False) as arrays:
      return dict(arrays)

  return read


@pytest.fixture(scope='session')
def stored_golden() -> Callable[[str], Golden]:
  """Reads the small reference numbers that are kept in this repository."""

  def read(name: str) -> Golden:
    with np.load(TESTS / 'golden' / name, allow_pickle=False) as arrays:
      return dict(arrays)

  return read
