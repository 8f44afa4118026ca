"""Classification networks: students and teachers."""

from rsdjax.models.cost import count_flops, count_parameters
from rsdjax.models.network import Network
from rsdjax.models.registry import create, Entry, feature_shapes, names

__all__ = [
  'Entry',
  'Network',
  'count_flops',
  'count_parameters',
  'create',
  'feature_shapes',
  'names',
]
