"""Layers that more than one method uses."""

from common.layers.attention import attend, SelfAttention
from common.layers.batch_norm import BatchNorm
from common.layers.block_sequence import in_sequence
from common.layers.dense import Dense
from common.layers.dense_convolution import Conv, convolution
from common.layers.drop_path import DropPath
from common.layers.gelu import gelu
from common.layers.initializers import fan_in_uniform, uniform_within
from common.layers.layer_norm import layer_norm, LayerNorm
from common.layers.materialized import after, materialized
from common.layers.max_pool import max_pool
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
  'Dense',
  'DropPath',
  'LayerNorm',
  'Mlp',
  'SelfAttention',
  'after',
  'attend',
  'convolution',
  'fan_in_uniform',
  'from_windows',
  'gelu',
  'in_sequence',
  'layer_norm',
  'materialized',
  'max_pool',
  'per_sample_convolution',
  'per_sample_transposed_convolution',
  'relative_positions',
  'to_windows',
  'transposed_convolution',
  'uniform_within',
]
