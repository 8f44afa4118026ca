"""ConvNeXt."""

import functools

import flax.linen as nn
import jax

from common.array_types import Array, at_least_float32
from common.layers import (
  Conv,
  DropPath,
  initializers,
  LayerNorm,
  materialized,
  Mlp,
)
from rsdjax.models.network import (
  linear_ramp,
  Network,
  Outputs,
  outputs,
  require_multiple,
)

_normal = initializers.normal(0.02)


class ConvNeXtBlock(nn.Module):
  """Depthwise 7x7 convolution and MLP under a layer scale, with a shortcut.

  Attributes:
    drop_path_rate: probability of dropping the branch for an example.
    dtype: of the computation.
  """

  drop_path_rate: float = 0.0
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, c] to [b, h, w, c]."""
    channels = x.shape[-1]
    branch = Conv(
      channels,
      (7, 7),
      padding=3,
      groups=channels,
      dtype=self.dtype,
      kernel_init=_normal,
      name='depthwise_conv',
    )(x)
    normed = LayerNorm(dtype=self.dtype, name='norm').deferred(branch)
    branch = Mlp(4 * channels, self.dtype, name='mlp')(normed)
    scale = self.param(
      'layer_scale', nn.initializers.constant(1e-6), (channels,)
    )
    branch *= scale.astype(branch.dtype)[None, None, None]
    drop_path = DropPath(self.drop_path_rate)
    return materialized(x + drop_path(branch, train=train))


class ConvNeXt(Network):
  """ConvNeXt, for images of any size that is a multiple of 32.

  The stage features are the outputs of the stages, the embedding is the
  LayerNorm of the mean over the last one.

  Attributes:
    depths: number of blocks in each stage.
    width: channels of the first stage; they double from stage to stage.

  Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022; timm 0.6.5.
  """

  depths: tuple[int, ...] = (3, 3, 9, 3)
  width: int = 96

  def check_image_size(self, height: int, width: int) -> None:
    """Raises ValueError unless the sides are multiples of 32."""
    require_multiple(height, width, of=4 * 2 ** (len(self.depths) - 1))

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, features: bool = False
  ) -> Array | Outputs:
    """Classifies images; see `Network`."""
    self._check_images(images)
    norm = functools.partial(LayerNorm, dtype=self.dtype)
    x = norm(name='stem_norm')(self._reduce(images, 4, self.width, 'stem_conv'))
    stages = []
    drop_path_rates = iter(linear_ramp(self.drop_path_rate, sum(self.depths)))
    block = self._rematerialised(ConvNeXtBlock)
    for stage, depth in enumerate(self.depths, 1):
      if stage > 1:
        x = norm(name=f'stage{stage}_norm')(x)
        x = self._reduce(x, 2, 2 * x.shape[-1], f'stage{stage}_conv')
      for i in range(depth):
        name = f'stage{stage}_block{i}'
        x = block(next(drop_path_rates), self.dtype, name=name)(x, train)
      stages.append(x)
    # The norm sees the mean, not the map.
    embedding = LayerNorm(name='norm')(at_least_float32(x).mean((1, 2)))
    logits = nn.Dense(self.num_classes, kernel_init=_normal, name='classifier')(
      embedding
    )
    return outputs(logits, embedding, stages, features=features)

  def _reduce(self, x: Array, by: int, channels: int, name: str) -> Array:
    """Maps each square of `by` x `by` pixels to one."""
    return nn.Conv(
      channels,
      (by, by),
      by,
      padding='VALID',
      dtype=self.dtype,
      kernel_init=_normal,
      name=name,
    )(x)
