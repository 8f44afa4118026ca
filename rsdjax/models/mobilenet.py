"""MobileNetV2."""

import functools

import flax.linen as nn
import jax

from common.array_types import Array, at_least_float32
from common.layers import BatchNorm, Conv, DropPath, initializers, materialized
from rsdjax.models.network import Network, Outputs, outputs

# Of each group: expansion, channels, number of blocks, stride of the first.
Groups = tuple[tuple[int, int, int, int], ...]
_GROUPS: Groups = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)
# Groups whose outputs are stage features; the fourth is that of the head.
_STAGE_ENDS = (1, 2, 4)


class ConvNorm(nn.Module):
  """Convolution, BatchNorm, and ReLU6 unless told otherwise.

  Attributes:
    features: channels of the output.
    kernel_size: side of the kernel.
    strides: of the convolution.
    depthwise: convolve each channel by itself.
    activation: end with ReLU6.
    axis_name: device axis of the BatchNorm statistics.
    dtype: of the computation.
  """

  features: int
  kernel_size: int = 1
  strides: int = 1
  depthwise: bool = False
  activation: bool = True
  axis_name: str | None = None
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """Maps [b, h, w, c] to [b, h / strides, w / strides, features]."""
    groups = self.features if self.depthwise else 1
    # The fan-out of a group, which flax takes over all groups.
    init = initializers.variance_scaling(2.0 * groups, 'fan_out', 'normal')
    x = Conv(
      self.features,
      (self.kernel_size, self.kernel_size),
      self.strides,
      padding=self.kernel_size // 2,
      groups=groups,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=init,
      name='conv',
    )(x)
    norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name='norm')
    x = norm(x, train=train)
    return nn.relu6(x) if self.activation else x


class InvertedResidual(nn.Module):
  """Expand, convolve each channel, project; a shortcut where shapes agree.

  Attributes:
    features: channels of the output.
    expansion: channels inside as a multiple of those of the input; 1 leaves
      out the expansion.
    strides: of the depthwise convolution.
    drop_path_rate: probability of dropping the branch for an example.
    axis_name: device axis of the BatchNorm statistics.
    dtype: of the computation.
  """

  features: int
  expansion: int
  strides: int
  drop_path_rate: float = 0.0
  axis_name: str | None = None
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, c] to [b, h / strides, w / strides, features]."""
    conv = functools.partial(
      ConvNorm, axis_name=self.axis_name, dtype=self.dtype
    )
    inner = x.shape[-1] * self.expansion
    branch = x
    if self.expansion > 1:
      branch = conv(inner, name='expand')(branch, train=train)
    branch = conv(inner, 3, self.strides, depthwise=True, name='depthwise')(
      branch, train=train
    )
    branch = conv(self.features, activation=False, name='project')(
      branch, train=train
    )
    if x.shape != branch.shape:
      return branch
    drop_path = DropPath(self.drop_path_rate)
    return materialized(x + drop_path(branch, train=train))


class MobileNetV2(Network):
  """MobileNetV2 1.0, for images of any size.

  The stage features are the outputs of the last blocks with 24, 32 and 96
  channels, and that of the head's convolution. The drop path rate grows by
  the same amount from block to block and stays below `drop_path_rate`, as in
  timm.

  Attributes:
    groups: of each of the seven groups of blocks the expansion, the channels,
      the number of blocks and the stride of the first.

  Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear
  Bottlenecks", CVPR 2018; timm 0.6.5.
  """

  groups: Groups = _GROUPS

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, features: bool = False
  ) -> Array | Outputs:
    """Classifies images; see `Network`."""
    self._check_images(images)
    conv = functools.partial(
      ConvNorm, axis_name=self.axis_name, dtype=self.dtype
    )
    x = conv(32, 3, 2, name='stem')(images, train=train)
    stages = []
    block = self._rematerialised(InvertedResidual)
    num_blocks = sum(depth for _, _, depth, _ in self.groups)
    index = 0
    for group, (expansion, channels, depth, strides) in enumerate(self.groups):
      for i in range(depth):
        x = block(
          channels,
          expansion,
          strides if i == 0 else 1,
          self.drop_path_rate * index / num_blocks,
          self.axis_name,
          self.dtype,
          name=f'group{group}_block{i}',
        )(x, train)
        index += 1
      if group in _STAGE_ENDS:
        stages.append(x)
    x = conv(1280, name='head')(x, train=train)
    stages.append(x)
    embedding = at_least_float32(x).mean((1, 2))
    logits = nn.Dense(
      self.num_classes,
      kernel_init=initializers.variance_scaling(1 / 3, 'fan_out', 'uniform'),
      name='classifier',
    )(embedding)
    return outputs(logits, embedding, stages, features=features)
