"""ADN: stages of shared dilated convolutions that select their scale."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from common import layers
from common.array_types import Array, at_least_float32
from trnr.models.blocks import ChannelAttention, Conv, he_normal, leaky_relu
from trnr.models.network import Levels, RestorationNetwork

_DILATIONS = (1, 2, 3)


class DilatedConv(nn.Module):
  """A 3x3 convolution whose dilation is chosen at each call.

  Attributes:
    features: channels of the output.
    dtype: of the computation.
  """

  features: int
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, dilation: int) -> Array:
    """Maps [b, h, w, c] to [b, h, w, features]."""
    shape = (3, 3, x.shape[-1], self.features)
    kernel = self.param('kernel', he_normal, shape)
    bias = self.param('bias', nn.initializers.zeros, shape[-1:])
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    x = layers.convolution(x, kernel, padding=dilation, dilation=dilation)
    return x + bias[None, None, None]


class SelectiveStage(nn.Module):
  """The same two convolutions at three dilations; a softmax weighs them.

  Attributes:
    features: channels.
    dtype: of the computation.
  """

  features: int
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, features] to the same shape."""
    del train  # There is nothing to normalise.
    first, second = (
      DilatedConv(self.features, self.dtype, name=name)
      for name in ('first', 'second')
    )
    scales = [
      leaky_relu(second(leaky_relu(first(x, dilation)), dilation))
      for dilation in _DILATIONS
    ]
    stacked = jnp.stack(scales, axis=3)  # [b, h, w, dilations, features]
    pooled = at_least_float32(stacked).mean((1, 2))
    weights = nn.Dense(
      pooled.shape[-1] * len(_DILATIONS),
      kernel_init=he_normal,
      dtype=self.dtype,
      name='selection',
    )(pooled.reshape(len(pooled), -1))
    weights = jax.nn.softmax(weights.reshape(pooled.shape), axis=1)
    selected = (stacked * weights[:, None, None]).sum(axis=3)
    return ChannelAttention(
      hidden_features=self.features // 4,
      use_bias=True,
      dtype=self.dtype,
      name='attention',
    )(selected)


class ADN(RestorationNetwork):
  """The network of shared dilated stages, as the TRNR program has it.

  37,879 parameters.

  Attributes:
    stages: how many.

  Source: the comparison of Ran et al., IEEE TIP 2023, and its program.
  """

  features: int = 16
  stages: int = 5

  @nn.compact
  def __call__(
    self, image: Array, *, train: bool = False, sigma: Array | None = None
  ) -> Array:
    """Restores images; see `RestorationNetwork`."""
    self._check_image(image)
    if sigma is not None:
      raise ValueError('this network takes no sigma')
    image = at_least_float32(image)

    x = Conv(self.features, use_bias=True, dtype=self.dtype, name='head')(image)
    x = leaky_relu(x)
    stage = self._rematerialised(SelectiveStage)
    outputs = []
    for number in range(1, self.stages + 1):
      x = stage(self.features, dtype=self.dtype, name=f'stage{number}')(
        x, train
      )
      outputs.append(x)
    x = Conv(
      self.features,
      kernel_size=(1, 1),
      padding=0,
      use_bias=True,
      dtype=self.dtype,
      name='transition',
    )(jnp.concatenate(outputs, axis=-1))
    residual = Conv(
      self.channels, use_bias=True, dtype=self.dtype, name='tail'
    )(leaky_relu(x))
    return image + residual.astype(image.dtype)

  def levels(self) -> Levels:
    """Module paths by depth; see `RestorationNetwork`."""
    modules = ('first', 'second', 'selection', 'attention')
    stages = [
      (f'stage{number}/{module}',)
      for number in range(1, self.stages + 1)
      for module in modules
    ]
    return [('head',), *stages, ('transition',), ('tail',)]
