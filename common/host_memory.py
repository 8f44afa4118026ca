"""What the C library does with memory that is free."""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

# Of glibc's mallopt, the size from which a block is one of its own, and what
# that becomes in time by itself.
_MMAP_THRESHOLD, _LARGEST_THRESHOLD = -3, 32 * 2**20


def return_freed() -> None:
  """Gives memory that is free back to the system.

  Compiling a training step takes gigabytes for a while, which glibc keeps: they
  lie in pieces between what lasts. Other C libraries are left alone.
  """
  trim = _of_glibc('malloc_trim')
  if trim is not None:
    trim(0)


@contextlib.contextmanager
def returned_when_freed() -> Iterator[None]:
  """Has large blocks given back to the system as soon as they are freed.

  Left alone, glibc keeps those of up to 32 MiB, and pictures of several sizes
  leave them in pieces between what lasts. Other C libraries are left alone.
  """
  set_option = _of_glibc('mallopt')
  if set_option is None:
    yield
    return
  set_option(_MMAP_THRESHOLD, 2**20)
  try:
    yield
  finally:
    set_option(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)


def _of_glibc(name: str) -> Any:
  """A function of the C library; None where there is none of that name."""
  try:
    return getattr(ctypes.CDLL(None), name)
  except (AttributeError, OSError, TypeError):
    return None
