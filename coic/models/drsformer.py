"""DRSformer: a transformer that attends among channels, sparsely."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from coic.models.backbone import Backbone, Outputs
from coic.models.experts import ExpertMixture
from coic.models.transformer import context, LayerNorm, PlainConv
from coic.modulation import ModulatedConv
from common.array_types import Array, at_least_float32, require_same_shape
from common.layers import in_sequence, materialized


class SparseAttention(nn.Module):
  """TKSA: attention among channels that keeps the largest entries of each row.

  Four softmaxes over the largest half, two thirds, three quarters and four
  fifths of a row, added up with learned weights. Norms, scores and softmaxes
  are float32 at least.

  Attributes:
    num_heads: number of heads; must divide the width.
    dtype: of the computation.

  Source: Chen et al., CVPR 2023, top-k sparse attention.
  """

  num_heads: int
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, source: Array) -> Array:
    """Mixes channels.

    Args:
      x: where queries come from, float [b, h, w, features].
      source: where keys and values come from, of the same shape.

    Returns:
      Float [b, h, w, features].

    Raises:
      ValueError: shapes differ, or heads have less than two channels each.
    """
    require_same_shape(x=x, source=source)
    batch, height, width, features = x.shape
    if features % self.num_heads or features < 2 * self.num_heads:
      raise ValueError(
        f'{self.num_heads} heads do not divide {features} features into two '
        'or more each'
      )
    conv = functools.partial(PlainConv, use_bias=False, dtype=self.dtype)
    qkv = jnp.concatenate(
      [
        conv(features, 1, name='query')(x),
        conv(2 * features, 1, name='key_value')(source),
      ],
      axis=-1,
    )
    qkv = conv(3 * features, 3, groups=3 * features, name='depthwise')(qkv)
    channels = features // self.num_heads
    query, key, value = (
      part.reshape(batch, height * width, self.num_heads, channels)
      for part in jnp.split(qkv, 3, axis=-1)
    )
    temperature = self.param(
      'temperature', nn.initializers.ones, (self.num_heads, 1, 1)
    )
    scores = cosine_similarities(query, key) * temperature[None]
    ranks = descending_ranks(scores)
    kept = (
      channels // 2,
      channels * 2 // 3,
      channels * 3 // 4,
      channels * 4 // 5,
    )
    weights = jnp.zeros_like(scores)
    for i, count in enumerate(kept, 1):
      weight = self.param(f'weight{i}', nn.initializers.constant(0.2), (1,))
      largest = jnp.where(ranks < count, scores, -jnp.inf)
      weights += weight[0] * nn.softmax(largest)
    mixed = jnp.einsum('bhcd,bphd->bphc', weights.astype(value.dtype), value)
    return conv(features, 1, name='project')(mixed.reshape(x.shape))


class MixedScaleFeedForward(nn.Module):
  """MSFN: two rounds of convolutions of two sizes that exchange halves.

  Attributes:
    expansion: hidden width, in widths.
    layer_options: see `Backbone`.

  Source: Chen et al., CVPR 2023, mixed-scale feed-forward network.
  """

  expansion: float
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(self, x: Array, z: Array | None) -> Array:
    """Maps [b, h, w, c] to [b, h, w, c]."""
    features = x.shape[-1]
    hidden = int(features * self.expansion)
    dtype = self.layer_options['dtype']

    def conv(x: Array, features: int, size: int, name: str) -> Array:
      layer = ModulatedConv(
        features,
        size,
        groups=features,
        use_bias=False,
        name=name,
        **self.layer_options,
      )
      return nn.relu(layer(x, z))

    plain = functools.partial(PlainConv, use_bias=False, dtype=dtype)
    x = plain(2 * hidden, 1, name='expand')(x)
    small = jnp.split(conv(x, 2 * hidden, 3, 'depthwise3'), 2, axis=-1)
    large = jnp.split(conv(x, 2 * hidden, 5, 'depthwise5'), 2, axis=-1)
    x = jnp.concatenate(
      [
        conv(jnp.concatenate([small[0], large[0]], -1), hidden, 3, 'mix3'),
        conv(jnp.concatenate([small[1], large[1]], -1), hidden, 5, 'mix5'),
      ],
      axis=-1,
    )
    return plain(features, 1, name='project')(x)


class SparseTransformerBlock(nn.Module):
  """STB: sparse attention and mixed-scale feed-forward, beside shortcuts.

  Attributes:
    num_heads: heads of the attention.
    expansion: hidden width of the feed-forward part, in widths.
    layer_options: see `Backbone`.
  """

  num_heads: int
  expansion: float
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(self, x: Array, z: Array | None) -> Array:
    """Maps [b, h, w, c] to [b, h, w, c]."""
    dtype = self.layer_options['dtype']
    added = context(x, z, self.layer_options)
    source = x if added is None else x + added
    branch = SparseAttention(self.num_heads, dtype, name='attention')(
      LayerNorm(dtype=dtype, name='norm1_query')(x),
      LayerNorm(dtype=dtype, name='norm1_key_value')(source),
    )
    x = materialized(x + branch)
    branch = MixedScaleFeedForward(
      self.expansion, self.layer_options, name='feed_forward'
    )(LayerNorm(dtype=dtype, name='norm2')(x), z)
    return materialized(x + branch)


class DRSformer(Backbone):
  """A U-Net of sparse transformer blocks between two mixtures of experts.

  For images whose sides are multiples of 2^(levels - 1), 8 as published.

  Attributes:
    features: channels of the first level; they double from level to level.
    blocks: number of blocks in each level, the last of which is the bottom.
    heads: heads of the attention in each level.
    expansion: hidden width of the feed-forward parts, in widths, rounded down.
    expert_steps: steps of a mixture of experts.

  Differs from the reference: z may be of any width everywhere.

  Source: Chen et al., "Learning A Sparse Transformer Network for Effective
  Image Deraining", CVPR 2023; with modulation as in CoIC, and its second norm
  in front of keys and values.
  """

  features: int = 48
  blocks: tuple[int, ...] = (4, 6, 6, 8)
  heads: tuple[int, ...] = (1, 2, 4, 8)
  expansion: float = 2.66
  expert_steps: int = 4

  @property
  def side_multiple(self) -> int:
    """8 for four levels, each of half the size."""
    return 2 ** (len(self.blocks) - 1)

  @nn.compact
  def __call__(
    self,
    image: Array,
    z: Array | None = None,
    *,
    train: bool = False,
    all_outputs: bool = False,
  ) -> Array | Outputs:
    """Restores images; see `Backbone`."""
    del train
    if len(self.blocks) != len(self.heads):
      raise ValueError(
        f'blocks {self.blocks} and heads {self.heads} must be of as many levels'
      )
    self._check(image, z)
    options = self._layer_options()

    def conv(x: Array, features: int, name: str) -> Array:
      layer = ModulatedConv(features, 3, use_bias=False, name=name, **options)
      return layer(x, z)

    def level(x: Array, index: int, name: str) -> Array:
      blocks = [
        SparseTransformerBlock(
          self.heads[index], self.expansion, options, name=f'{name}_block{i}'
        )
        for i in range(self.blocks[index])
      ]
      return in_sequence(blocks, x, z, remat=self.remat)

    def experts(x: Array, name: str) -> Array:
      return ExpertMixture(self.expert_steps, self.remat, options, name=name)(
        x, z
      )

    bottom = len(self.blocks) - 1
    x = image.astype(self._compute_dtype(image))
    x = experts(conv(x, self.features, 'input'), 'compensation')
    skips = []
    for i in range(bottom):
      x = level(x, i, f'encoder{i + 1}')
      skips.append(x)
      x = pixel_unshuffle(conv(x, x.shape[-1] // 2, f'down{i + 1}'))
    x = level(x, bottom, 'bottom')
    for i in reversed(range(bottom)):
      x = pixel_shuffle(conv(x, 2 * x.shape[-1], f'up{i + 1}'))
      x = jnp.concatenate([x, skips[i]], axis=-1)
      if i > 0:  # The first level stays twice as wide.
        x = PlainConv(
          x.shape[-1] // 2,
          1,
          use_bias=False,
          dtype=self.dtype,
          name=f'reduce{i + 1}',
        )(x)
      x = level(x, i, f'decoder{i + 1}')
    x = conv(experts(x, 'refinement'), 3, 'output')
    restored = at_least_float32(image) + x
    return {'restored': restored} if all_outputs else restored


def cosine_similarities(query: Array, key: Array) -> Array:
  """Cosines of the angles between channels, as vectors of pixels.

  Args:
    query: float [b, pixels, heads, channels].
    key: of the same shape.

  Returns:
    Float [b, heads, query channels, key channels], float32 at least; norms
    below 1e-12 count as that.
  """

  def inverse_norm(x: Array) -> Array:
    squares = jnp.square(at_least_float32(x)).sum(1)
    return jax.lax.rsqrt(jnp.maximum(squares, 1e-24))  # [b, heads, channels]

  products = jnp.einsum(
    'bphc,bphd->bhcd',
    query,
    key,
    preferred_element_type=jnp.promote_types(query.dtype, jnp.float32),
  )
  products *= inverse_norm(query)[:, :, :, None]
  return products * inverse_norm(key)[:, :, None]


def descending_ranks(scores: Array) -> Array:
  """Place of each entry among those of its row, the largest being at 0.

  Of equal entries the first comes first, so that the entries with ranks below
  k are exactly k, whereas all that reach the k-th largest value can be more.

  Args:
    scores: float [..., entries].

  Returns:
    Integers of the same shape; a constant, no gradient flows through them.
  """
  order = jnp.argsort(-jax.lax.stop_gradient(scores), stable=True)
  return jnp.argsort(order)


def pixel_unshuffle(x: Array) -> Array:
  """Squares of 2 x 2 pixels to one: [b, h, w, c] to [b, h / 2, w / 2, 4 c].

  Each channel becomes four in a row: top left, top right, bottom left, bottom
  right.
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = x.transpose(0, 1, 3, 5, 2, 4)
  return x.reshape(batch, height // 2, width // 2, 4 * channels)


def pixel_shuffle(x: Array) -> Array:
  """Inverse of `pixel_unshuffle`."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, channels // 4, 2, 2)
  x = x.transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(batch, 2 * height, 2 * width, channels // 4)
