"""Weights that the reference fills by a rule."""

import numpy as np
import pytest


def _filled(index, center, half, shape):
  """The rule of the golden README, in wrapping 32-bit arithmetic."""
  with np.errstate(over='ignore'):
    h = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761)
    h += np.uint32(index) * np.uint32(2246822519) + np.uint32(374761393)
    h = (h ^ (h >> 15)) * np.uint32(2246822519)
    h = (h ^ (h >> 13)) * np.uint32(3266489917)
  h ^= h >> 16
  u = (h + 0.5) / 2**31 - 1
  return (center + half * u).reshape(shape).astype(np.float32)


@pytest.fixture(scope='session')
def rule_filled():
  """Gives tensors by published name: `rule_filled(arrays, prefix='net_')`."""

  def fill(arrays, *, prefix=''):
    keys = ('name', 'index', 'center', 'half', 'shape')
    return {
      str(name): _filled(
        index, center, half, tuple(int(side) for side in shape.split('x'))
      )
      for name, index, center, half, shape in zip(
        *(arrays[f'{prefix}rule_{key}'] for key in keys), strict=True
      )
    }

  return fill


_NARROW = {
  'brn': {'iterations': 2, 'features': 4},
  'rcdnet': {'stages': 2, 'maps': 4, 'extra_features': 4, 'blocks': 1},
  'dgunet': {'features': 8, 'step': 4, 'extra': 4, 'iterations': 1},
  'idt': {'features': 4, 'blocks': (1,) * 9},
  'drsformer': {'features': 8, 'blocks': (1, 1, 1, 1), 'expert_steps': 1},
}


@pytest.fixture(scope='session')
def narrow():
  """Options that make a network small: `narrow('brn')`."""
  return lambda name: dict(_NARROW[name])
