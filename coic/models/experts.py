"""Mixtures of experts, the convolutions at both ends of DRSformer."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from coic.models.transformer import PlainConv
from coic.modulation import ModulatedConv
from common.array_types import Array, at_least_float32
from common.layers import fan_in_uniform, in_sequence, uniform_within


class ExpertStep(nn.Module):
  """Eight experts on one input, gated, merged, beside a shortcut.

  Attributes:
    layer_options: see `Backbone`.
  """

  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(self, x: Array, z: Array | None, gates: Array) -> Array:
    """Maps [b, h, w, c] and gates [b, 8] to [b, h, w, c]."""
    features = x.shape[-1]
    dtype = self.layer_options['dtype']

    def pointwise(x: Array, name: str) -> Array:
      return PlainConv(features, 1, use_bias=False, dtype=dtype, name=name)(x)

    def depthwise(x: Array, size: int, name: str, dilation: int = 1) -> Array:
      return ModulatedConv(
        features,
        size,
        dilation=dilation,
        groups=features,
        use_bias=False,
        name=name,
        **self.layer_options,
      )(x, z)

    experts = []
    for size in (1, 3, 5, 7):
      name = f'separable{size}'
      y = depthwise(x, size, f'{name}_depthwise1')
      y = nn.relu(pointwise(y, f'{name}_pointwise1'))
      y = depthwise(y, size, f'{name}_depthwise2')
      experts.append(pointwise(y, f'{name}_pointwise2'))
    for size in (3, 5, 7):
      name = f'dilated{size}'
      y = depthwise(x, size, f'{name}_depthwise', dilation=2)
      experts.append(pointwise(y, f'{name}_pointwise'))
    experts.append(_average_of_neighbours(x))
    gates = gates.astype(x.dtype)[:, None, None]
    gated = [expert * gates[..., i, None] for i, expert in enumerate(experts)]
    merged = pointwise(jnp.concatenate(gated, axis=-1), 'merge')
    return nn.relu(nn.relu(merged) + x)


def _average_of_neighbours(x: Array) -> Array:
  """Mean of the up to 3 x 3 pixels around each that are in the picture."""
  total = nn.pooling.pool(x, 0.0, lax.add, (3, 3), (1, 1), [(1, 1), (1, 1)])
  # Flax counts them with a pooling of ones, over which XLA's compiler takes
  # seconds for a large picture.
  rows, columns = (_in_reach(size) for size in x.shape[1:3])
  return total / (rows[:, None] * columns)[None, ..., None].astype(x.dtype)


def _in_reach(size: int) -> np.ndarray:
  """How many of a place's two neighbours and itself there are, [size]."""
  place = np.arange(size)
  return 3 - (place == 0) - (place == size - 1)


class ExpertMixture(nn.Module):
  """MEFC: steps of eight convolutional experts, gated by the average of x.

  Attributes:
    steps: number of steps.
    remat: compute the steps again in the backward pass.
    layer_options: see `Backbone`.

  Source: Chen et al., CVPR 2023, mixture of experts feature compensator.
  """

  steps: int
  remat: bool
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(self, x: Array, z: Array | None) -> Array:
    """Maps [b, h, w, c] to [b, h, w, c]."""

    def linear(x: Array, features: int, name: str) -> Array:
      limit = x.shape[-1] ** -0.5
      return nn.Dense(
        features,
        kernel_init=fan_in_uniform(),
        bias_init=uniform_within(limit),
        name=name,
      )(x)

    outputs = 8 * self.steps
    mean = at_least_float32(x).mean((1, 2))
    gates = linear(
      nn.relu(linear(mean, 2 * outputs, 'gates1')), outputs, 'gates2'
    )
    gates = nn.softmax(gates.reshape(-1, self.steps, 8))
    dtype = self.layer_options['dtype']
    x = PlainConv(x.shape[-1], 1, use_bias=False, dtype=dtype, name='input')(x)
    x = nn.relu(x)
    steps = [
      ExpertStep(self.layer_options, name=f'step{i}') for i in range(self.steps)
    ]
    return in_sequence(steps, x, z, each=gates.swapaxes(0, 1), remat=self.remat)
