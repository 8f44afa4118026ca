"""MLP-Mixer."""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
from jax.tree_util import Partial

from common.array_types import Array, at_least_float32
from common.layers import DropPath, initializers, LayerNorm, materialized, Mlp
from rsdjax.models.network import (
  Network,
  Outputs,
  outputs,
  require_multiple,
)
from rsdjax.models.tokens import flatten_grid, PatchEmbedding, stage_ends

_Mlp = functools.partial(
  Mlp,
  kernel_init=initializers.xavier_uniform(),
  bias_init=initializers.normal(1e-6),
)


class MixerBlock(nn.Module):
  """An MLP along the tokens and one along the channels, with shortcuts.

  Attributes:
    drop_path_rate: probability of dropping either branch for an example.
    dtype: of the computation.
  """

  drop_path_rate: float = 0.0
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps tokens [b, n, d] to [b, n, d]."""
    width = x.shape[-1]
    drop_path = DropPath(self.drop_path_rate)
    normed = LayerNorm(dtype=self.dtype, name='norm1').deferred(x)
    turned = Partial(lambda normed: normed().swapaxes(1, 2), normed)
    branch = _Mlp(width // 2, self.dtype, name='mlp_tokens')(turned)
    x = materialized(x + drop_path(branch.swapaxes(1, 2), train=train))
    normed = LayerNorm(dtype=self.dtype, name='norm2').deferred(x)
    branch = _Mlp(4 * width, self.dtype, name='mlp_channels')(normed)
    return materialized(x + drop_path(branch, train=train))


class MlpMixer(Network):
  """MLP-Mixer.

  For images of any size that is a multiple of the patch, but the parameters
  are those of one size. The embedding is the mean of the tokens after the last
  norm; the stage features are block outputs before it. Every block has the
  same drop path rate, as in timm. The classifier starts at 0.

  Attributes:
    patch_size: side of a patch in pixels.
    width: width of a token; the MLPs are 1/2 (tokens) and 4 (channels) times
      as wide inside.
    depth: number of blocks.
    block: the class of the blocks.

  Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision",
  NeurIPS 2021; timm 0.6.5.
  """

  patch_size: int = 16
  width: int = 768
  depth: int = 12

  block: ClassVar[Callable[..., nn.Module]] = MixerBlock

  def check_image_size(self, height: int, width: int) -> None:
    """Raises ValueError unless the sides are multiples of the patch."""
    require_multiple(height, width, of=self.patch_size)

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, features: bool = False
  ) -> Array | Outputs:
    """Classifies images; see `Network`."""
    self._check_images(images)
    embed = PatchEmbedding(
      self.width,
      self.patch_size,
      self.dtype,
      kernel_init=initializers.lecun_normal(),
      bias_init=nn.initializers.zeros,
      name='patches',
    )
    x = flatten_grid(embed(images))
    stages = []
    block = self._rematerialised(self.block)
    for i in range(self.depth):
      x = block(self.drop_path_rate, self.dtype, name=f'block{i}')(x, train)
      stages += [x] * stage_ends(self.depth).count(i)
    x = self._last_norm()(x)
    embedding = at_least_float32(x).mean(1)
    logits = nn.Dense(
      self.num_classes, kernel_init=nn.initializers.zeros, name='classifier'
    )(embedding)
    return outputs(logits, embedding, stages, features=features)

  def _last_norm(self) -> nn.Module:
    return LayerNorm(dtype=self.dtype, name='norm')
