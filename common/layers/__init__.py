"""Layers that more than one method uses."""

from common.layers.attention import attend, SelfAttention
from common.layers.batch_norm import BatchNorm
from common.layers.dense_convolution import Conv, convolution
from common.layers.drop_path import DropPath
from common.layers.gelu import gelu
from common.layers.initializers import fan_in_uniform, uniform_within
from common.layers.materialized import materialized
from common.layers.mlp import Mlp
from common.layers.per_sample_convolution import (
  per_sample_convolution,
  per_sample_transposed_convolution,
  transposed_convolution,
)
from common.layers.windows import (
  from_windows,
  relative_positions,
  to_windows,
)

__all__ = [
  'BatchNorm',
  'Conv',
  'DropPath',
  'Mlp',
  'SelfAttention',
  'attend',
  'convolution',
  'fan_in_uniform',
  'from_windows',
  'gelu',
  'materialized',
  'per_sample_convolution',
  'per_sample_transposed_convolution',
  'relative_positions',
  'to_windows',
  'transposed_convolution',
  'uniform_within',
]
