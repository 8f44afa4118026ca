"""Published weights, and the weights that the reference fills by a rule."""

import csv

import numpy as np
import pytest

from trnr import convert


@pytest.fixture(scope='session')
def checkpoint(shared):
  """Reads published tensors: `checkpoint('rain100l')`."""
  files = {'rain100l': 'Rain100L-100', 'rain100h': 'Rain100H-250'}

  def read(name):
    path = shared(f'checkpoints/trnr/MSResNet-{files[name]}-TRNR.npz')
    with np.load(path, allow_pickle=False) as arrays:
      return dict(arrays)

  return read


@pytest.fixture(scope='session')
def published(checkpoint):
  """Published variables by name."""
  return lambda name: convert.from_torch(checkpoint(name))


@pytest.fixture(scope='session')
def rule_filled(shared):
  """Published names with weights by the rule of the golden README."""
  kinds = {
    'weight': lambda t, fan_in: 0.3 * np.sqrt(2 / fan_in) * t,
    'bias': lambda t, _: 0.1 * t,
    'bn running mean': lambda t, _: 0.05 * t,
    'bn running var': lambda t, _: 1 + 0.3 * t,
    'bn scale': lambda t, _: 1 + 0.1 * t,
    'bn shift': lambda t, _: 0.1 * t,
    'prelu slope': lambda t, _: 0.25 + 0.05 * t,
  }
  networks = {}
  with open(shared('golden/trnr/other_nets_tensors.csv')) as file:
    for row in csv.DictReader(file):
      shape = tuple(int(side) for side in row['shape'].split('x'))
      flat = 0.7 * np.arange(np.prod(shape)) + 1.3 * int(row['number'])
      value = kinds[row['kind']](
        np.sin(flat).reshape(shape), np.prod(shape[1:])
      )
      tensors = networks.setdefault(row['network'], {})
      tensors[row['name']] = value.astype(np.float32)
  return networks
