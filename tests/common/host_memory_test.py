"""What the C library does with memory that is free."""

import ctypes
import pathlib

import numpy as np
import pytest

from common import host_memory

_STATUS = pathlib.Path('/proc/self/status')


def resident_mib() -> float:
  for line in _STATUS.read_text().splitlines():
    if line.startswith('VmRSS:'):
      return int(line.split()[1]) / 1024
  raise AssertionError('no VmRSS')


@pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), 'malloc_trim') or not _STATUS.exists(),
  reason='memory of glibc under Linux is what is measured',
)
def test_pieces_between_what_lasts_are_returned():
  """Every other block of 64 KiB is freed, so none of them ends the heap."""
  blocks = [np.ones(2**16, np.uint8) for _ in range(4000)]
  del blocks[::2]
  before = resident_mib()
  host_memory.return_freed()
  assert before - resident_mib() > 80  # Of 125.
  assert all(block.all() for block in blocks)


def test_other_libraries_are_left_alone(monkeypatch):
  monkeypatch.setattr(ctypes, 'CDLL', lambda name: object())
  host_memory.return_freed()
  with host_memory.returned_when_freed():
    pass


def test_an_error_passes_through():
  with pytest.raises(KeyError), host_memory.returned_when_freed():
    raise KeyError
