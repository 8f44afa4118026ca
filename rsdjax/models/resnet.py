"""Residual networks, in their ImageNet and their CIFAR form."""

import functools

import flax.linen as nn
import jax

from common.array_types import Array, at_least_float32
from common.layers import (
  BatchNorm,
  Conv,
  DropPath,
  fan_in_uniform,
  initializers,
  materialized,
  max_pool,
  uniform_within,
)
from rsdjax.models.network import linear_ramp, Network, Outputs, outputs

_Conv = functools.partial(
  Conv,
  use_bias=False,
  kernel_init=initializers.variance_scaling(2.0, 'fan_out', 'normal'),
)


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions, or 1x1, 3x3 and 1x1, beside a shortcut.

  Attributes:
    features: channels of the output.
    bottleneck: take the three convolutions, with a quarter of the channels
      inside.
    strides: of the first 3x3 convolution.
    drop_path_rate: probability of dropping the branch for an example.
    axis_name: device axis of the BatchNorm statistics.
    dtype: of the computation.
  """

  features: int
  bottleneck: bool = False
  strides: int = 1
  drop_path_rate: float = 0.0
  axis_name: str | None = None
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, c] to [b, h / strides, w / strides, features]."""
    conv = functools.partial(_Conv, dtype=self.dtype)
    norm = functools.partial(
      BatchNorm, axis_name=self.axis_name, dtype=self.dtype
    )
    branch = x
    layers = self._layers()
    for i, (features, side, strides) in enumerate(layers, 1):
      branch = conv(
        features, (side, side), strides, padding=side // 2, name=f'conv{i}'
      )(branch)
      if i < len(layers):
        branch = nn.relu(norm(name=f'norm{i}')(branch, train=train))
      else:  # A scale of 0: the block starts as its shortcut.
        zeros = nn.initializers.zeros
        branch = norm(scale_init=zeros, name=f'norm{i}')(branch, train=train)
    branch = DropPath(self.drop_path_rate)(branch, train=train)
    if self.strides > 1 or x.shape[-1] != self.features:
      x = conv(self.features, (1, 1), self.strides, 0, name='shortcut_conv')(x)
      x = norm(name='shortcut_norm')(x, train=train)
    return materialized(nn.relu(x + branch))

  def _layers(self) -> list[tuple[int, int, int]]:
    """Channels, kernel side and stride of each convolution."""
    if not self.bottleneck:
      return [(self.features, 3, self.strides), (self.features, 3, 1)]
    inner = self.features // 4
    return [(inner, 1, 1), (inner, 3, self.strides), (self.features, 1, 1)]


class ResNet(Network):
  """Residual network for images of any size.

  The stage features are the outputs of the stages; those of the CIFAR form,
  which has three stages, start with that of the stem.

  Attributes:
    depths: number of blocks in each stage.
    width: channels of the stem; they double from stage to stage.
    bottleneck: use bottleneck blocks, whose outputs are four times as wide.
    small_stem: start with one 3x3 convolution, for images of about 32 pixels,
      not with a 7x7 convolution and a pooling, which halve the image twice.

  Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016
  (version 1.5: a bottleneck has its stride in the 3x3 convolution; the
  shortcuts of the CIFAR form are 1x1 convolutions); timm 0.6.5.
  """

  depths: tuple[int, ...] = (2, 2, 2, 2)
  width: int = 64
  bottleneck: bool = False
  small_stem: bool = False

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, features: bool = False
  ) -> Array | Outputs:
    """Classifies images; see `Network`."""
    self._check_images(images)
    x = self._stem(images, train)
    stages = [x] if len(self.depths) == 3 else []
    drop_path_rates = iter(linear_ramp(self.drop_path_rate, sum(self.depths)))
    block = self._rematerialised(ResidualBlock)
    for stage, depth in enumerate(self.depths):
      for i in range(depth):
        x = block(
          features=self.width * 2**stage * (4 if self.bottleneck else 1),
          bottleneck=self.bottleneck,
          strides=2 if stage > 0 and i == 0 else 1,
          drop_path_rate=next(drop_path_rates),
          axis_name=self.axis_name,
          dtype=self.dtype,
          name=f'stage{stage + 1}_block{i}',
        )(x, train)
      stages.append(x)
    embedding = at_least_float32(x).mean((1, 2))
    logits = nn.Dense(
      self.num_classes,
      kernel_init=fan_in_uniform(),
      bias_init=uniform_within(embedding.shape[-1] ** -0.5),
      name='classifier',
    )(embedding)
    return outputs(logits, embedding, stages, features=features)

  def _stem(self, images: Array, train: bool) -> Array:
    side, strides = (3, 1) if self.small_stem else (7, 2)
    x = _Conv(
      self.width,
      (side, side),
      strides,
      padding=side // 2,
      dtype=self.dtype,
      name='stem_conv',
    )(images)
    norm = BatchNorm(
      axis_name=self.axis_name, dtype=self.dtype, name='stem_norm'
    )
    x = nn.relu(norm(x, train=train))
    if self.small_stem:
      return x
    return max_pool(x, window=3, strides=2, padding=1)
