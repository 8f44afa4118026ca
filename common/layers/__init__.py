"""Layers that more than one method uses."""

from common.layers.attention import SelfAttention
from common.layers.batch_norm import BatchNorm
from common.layers.dense_convolution import Conv, convolution
from common.layers.drop_path import DropPath
from common.layers.gelu import gelu
from common.layers.initializers import fan_in_uniform, uniform_within
from common.layers.mlp import Mlp
from common.layers.per_sample_convolution import (
  per_sample_convolution,
  per_sample_transposed_convolution,
  transposed_convolution,
)

__all__ = [
  'BatchNorm',
  'Conv',
  'DropPath',
  'Mlp',
  'SelfAttention',
  'convolution',
  'fan_in_uniform',
  'gelu',
  'per_sample_convolution',
  'per_sample_transposed_convolution',
  'transposed_convolution',
  'uniform_within',
]
