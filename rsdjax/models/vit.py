"""Vision transformers (ViT, DeiT)."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.array_types import Array, at_least_float32
from common.layers import (
  DropPath,
  initializers,
  LayerNorm,
  materialized,
  Mlp,
  SelfAttention,
)
from rsdjax.models.network import (
  linear_ramp,
  Network,
  Outputs,
  outputs,
  require_multiple,
)
from rsdjax.models.tokens import flatten_grid, PatchEmbedding, stage_ends


class TransformerBlock(nn.Module):
  """Self-attention and MLP, each behind a LayerNorm and beside a shortcut.

  Attributes:
    num_heads: heads of the attention.
    mlp_ratio: hidden width of the MLP as a multiple of the width.
    drop_path_rate: probability of dropping either branch for an example.
    dtype: of the computation.
  """

  num_heads: int
  mlp_ratio: int = 4
  drop_path_rate: float = 0.0
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps tokens [b, n, d] to [b, n, d]."""
    drop_path = DropPath(self.drop_path_rate)
    normed = LayerNorm(dtype=self.dtype, name='norm1').deferred(x)
    branch = SelfAttention(self.num_heads, self.dtype, name='attention')(normed)
    x = materialized(x + drop_path(branch, train=train))
    normed = LayerNorm(dtype=self.dtype, name='norm2').deferred(x)
    hidden_features = self.mlp_ratio * x.shape[-1]
    branch = Mlp(hidden_features, self.dtype, name='mlp')(normed)
    return materialized(x + drop_path(branch, train=train))


class VisionTransformer(Network):
  """Vision transformer with a class token and learned positions.

  For images of any size that is a multiple of the patch; the number of
  position embeddings follows the size. The embedding is the class token after
  the last LayerNorm; the stage features are block outputs before it.

  Attributes:
    patch_size: side of a patch in pixels.
    width: width of a token.
    depth: number of blocks.
    num_heads: heads of each attention.
    mlp_ratio: hidden width of each MLP as a multiple of the width.

  Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021;
  Touvron et al., "Training data-efficient image transformers", ICML 2021
  (without distillation token); timm 0.6.5.
  """

  patch_size: int = 16
  width: int = 384
  depth: int = 12
  num_heads: int = 6
  mlp_ratio: int = 4

  prefix_tokens: ClassVar[int] = 1

  def check_image_size(self, height: int, width: int) -> None:
    """Raises ValueError unless the sides are multiples of the patch."""
    require_multiple(height, width, of=self.patch_size)

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, features: bool = False
  ) -> Array | Outputs:
    """Classifies images; see `Network`."""
    self._check_images(images)
    x = self._tokens(images)
    stages = []
    block = self._rematerialised(TransformerBlock)
    for i, rate in enumerate(linear_ramp(self.drop_path_rate, self.depth)):
      x = block(
        self.num_heads, self.mlp_ratio, rate, self.dtype, name=f'block{i}'
      )(x, train)
      stages += [x] * stage_ends(self.depth).count(i)
    x = LayerNorm(dtype=self.dtype, name='norm')(x)
    embedding = at_least_float32(x[:, 0])
    logits = nn.Dense(
      self.num_classes,
      kernel_init=initializers.normal(0.02),
      name='classifier',
    )(embedding)
    return outputs(logits, embedding, stages, features=features)

  def _tokens(self, images: Array) -> Array:
    """Class token and patch tokens, with positions: [b, 1 + n, width]."""
    embed = PatchEmbedding(
      self.width, self.patch_size, self.dtype, name='patches'
    )
    patches = flatten_grid(embed(images))
    batch, num_patches, _ = patches.shape
    normal = initializers.normal
    class_token = self.param('class_token', normal(1e-6), (1, 1, self.width))
    positions = self.param(
      'position_embedding', normal(0.02), (1, 1 + num_patches, self.width)
    )
    class_tokens = jnp.broadcast_to(class_token, (batch, 1, self.width))
    tokens = jnp.concatenate([class_tokens.astype(patches.dtype), patches], 1)
    return tokens + positions.astype(patches.dtype)
