"""IDT: the image deraining transformer."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from coic.models.backbone import Backbone, Outputs
from coic.models.transformer import context, LayerNorm, PlainConv
from coic.modulation import ModulatedConv, ModulatedConvTranspose
from common.array_types import Array, at_least_float32, require_same_shape
from common.layers import (
  attend,
  DropPath,
  from_windows,
  gelu,
  initializers,
  materialized,
  relative_positions,
  to_windows,
)

# The published program truncates it at a hundred deviations, which is not at
# all.
linear_init = initializers.normal(0.02)


class WindowAttention(nn.Module):
  """Attention among the tokens of a square, and a convolution beside it.

  Attributes:
    num_heads: number of heads; must divide the width.
    bound: larger distances between tokens share a bias, see
      `common.layers.relative_positions`.
    dtype: of the computation.
  """

  num_heads: int
  bound: int
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, source: Array) -> Array:
    """Mixes the tokens of each square.

    Args:
      x: where queries come from, float [b, squares, tokens, features]; the
        tokens of a square row by row.
      source: where keys and values come from, of the same shape.

    Returns:
      Float [b, squares, tokens, features].

    Raises:
      ValueError: shapes differ or do not fit.
    """
    require_same_shape(x=x, source=source)
    tokens, features = x.shape[-2:]
    side = math.isqrt(tokens)
    if side**2 != tokens:
      raise ValueError(
        f'the {tokens} tokens of x {list(x.shape)} are no square'
      )
    if features % self.num_heads:
      raise ValueError(
        f'{self.num_heads} heads do not divide {features} features'
      )
    linear = functools.partial(
      nn.Dense, dtype=self.dtype, kernel_init=linear_init
    )
    key, value = jnp.split(
      linear(2 * features, name='key_value')(source), 2, -1
    )
    heads = (*x.shape[:-1], self.num_heads, features // self.num_heads)
    mixed = attend(
      linear(features, name='query')(x).reshape(heads),
      key.reshape(heads),
      value.reshape(heads),
      self._bias(side),
    ).reshape(x.shape)
    squares = linear(features, name='local')(x)
    squares = squares.reshape(-1, side, side, features)
    conv = functools.partial(PlainConv, features, dtype=self.dtype)
    size = 2 * min(side - 1, 2) + 1
    squares = conv(size, groups=features, name='local_depthwise')(squares)
    squares = conv(1, groups=self.num_heads, name='local_pointwise')(squares)
    mixed += squares.reshape(x.shape)
    return linear(features, name='project')(mixed)

  def _bias(self, side: int) -> Array:
    """Added to the scores: [1, 1, heads, tokens, tokens]."""
    table = self.param(
      'relative_position_table',
      linear_init,
      ((2 * self.bound - 1) ** 2, self.num_heads),
    )
    bias = table[relative_positions(side, self.bound)]
    return jnp.moveaxis(bias, -1, 0)[None, None]


class LocalFeedForward(nn.Module):
  """LeFF: linear, depthwise convolution beside a shortcut, linear.

  Attributes:
    hidden_features: width between the linear layers.
    layer_options: see `Backbone`.
  """

  hidden_features: int
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(self, x: Array, z: Array | None) -> Array:
    """Maps a grid [b, h, w, c] to [b, h, w, c]."""
    linear = functools.partial(
      nn.Dense, dtype=self.layer_options['dtype'], kernel_init=linear_init
    )
    width = self.hidden_features
    hidden = gelu(linear(width, name='expand')(x))
    depthwise = ModulatedConv(
      width, 3, groups=width, name='depthwise', **self.layer_options
    )
    hidden += gelu(depthwise(hidden, z))
    return linear(x.shape[-1], name='project')(hidden)


class WindowBlock(nn.Module):
  """Attention within windows, and feed-forward.

  Attributes:
    num_heads: heads of the attention.
    window_size: side of a window.
    expansion: hidden width of the feed-forward part, in widths.
    drop_path_rate: probability of dropping either branch for an image.
    layer_options: see `Backbone`.
  """

  num_heads: int
  window_size: int
  expansion: int
  drop_path_rate: float
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(self, x: Array, z: Array | None, train: bool) -> Array:
    """Maps a grid [b, h, w, c] to [b, h, w, c]."""
    dtype = self.layer_options['dtype']
    drop_path = DropPath(self.drop_path_rate)
    normed = LayerNorm(dtype=dtype, name='norm1')(x)
    source = normed
    added = context(x, z, self.layer_options)
    if added is not None:
      source = 0.5 * (normed + added)
    source = LayerNorm(dtype=dtype, name='norm1_key_value')(source)
    side = self.window_size
    branch = WindowAttention(self.num_heads, side, dtype, name='attention')(
      to_windows(normed, side), to_windows(source, side)
    )
    branch = from_windows(branch, side, x.shape)
    x = materialized(x + drop_path(branch, train=train))
    branch = LayerNorm(dtype=dtype, name='norm2')(x)
    branch = LocalFeedForward(
      self.expansion * x.shape[-1], self.layer_options, name='feed_forward'
    )(branch, z)
    return materialized(x + drop_path(branch, train=train))


class SpatialBlock(nn.Module):
  """Attention among windows, for each channel, and feed-forward.

  Its tokens are the windows, and their features the pixels of one channel. As
  published, they are added to x in the order of the windows, whereas x is in
  the order of rows: places do not correspond.

  Attributes: as of `WindowBlock`.
  """

  num_heads: int
  window_size: int
  expansion: int
  drop_path_rate: float
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(self, x: Array, z: Array | None, train: bool) -> Array:
    """Maps a grid [b, h, w, c] to [b, h, w, c]."""
    dtype = self.layer_options['dtype']
    drop_path = DropPath(self.drop_path_rate)
    source = x
    added = context(x, z, self.layer_options)
    if added is not None:
      source = 0.5 * (x + added)

    def by_channel(grid: Array) -> Array:
      return jnp.moveaxis(to_windows(grid, self.window_size), -1, 1)

    branch = WindowAttention(
      self.num_heads, x.shape[1] // self.window_size, dtype, name='attention'
    )(by_channel(x), by_channel(source))
    branch = jnp.moveaxis(branch, 1, -1).reshape(x.shape)
    x = materialized(x + drop_path(branch, train=train))
    branch = LayerNorm(dtype=dtype, name='norm2')(x)
    branch = LocalFeedForward(
      self.expansion * self.window_size**2,
      self.layer_options,
      name='feed_forward',
    )(branch, z)
    return materialized(x + drop_path(branch, train=train))


class IDT(Backbone):
  """A U-Net of window attention, with attention among windows in each level.

  For images of one size: its tables of relative positions belong to it. Drop
  path draws from the stream 'dropout'.

  Attributes:
    image_size: side of the images; windows must fill every level.
    features: channels of the first level; they double from level to level.
    window_size: side of a window.
    blocks: window blocks of the levels: encoder, bottleneck, decoder. All
      levels but the bottleneck end with a spatial block.
    heads: heads of the attention, likewise.
    expansion: hidden width of the feed-forward parts, in widths.
    drop_path_rate: largest probability of dropping a residual branch for an
      image, in [0, 1).

  Source: Xiao et al., "Image De-raining Transformer", IEEE TPAMI 2022; with
  modulation as in CoIC, and its second norm in front of keys and values.
  """

  image_size: int = 128
  features: int = 32
  window_size: int = 8
  blocks: tuple[int, ...] = (3, 3, 2, 2, 1, 1, 2, 2, 3)
  heads: tuple[int, ...] = (1, 2, 4, 8, 16, 16, 8, 4, 2)
  expansion: int = 4
  drop_path_rate: float = 0.1

  @property
  def fixed_size(self) -> int:
    """Side of the images, the only one that it takes."""
    return self.image_size

  @nn.compact
  def __call__(
    self,
    image: Array,
    z: Array | None = None,
    *,
    train: bool = False,
    all_outputs: bool = False,
  ) -> Array | Outputs:
    """Restores images [b, image_size, image_size, 3]; see `Backbone`."""
    self._check(image, z)
    self._check_size(image)
    options = self._layer_options() | {'linear_init': linear_init}
    window_block, spatial_block = (
      nn.remat(block, static_argnums=(3,)) if self.remat else block
      for block in (WindowBlock, SpatialBlock)
    )
    levels = zip(
      self.blocks,
      self.heads,
      drop_path_rates(self.drop_path_rate, self.blocks),
      strict=True,
    )

    def level(x: Array, name: str) -> Array:
      blocks, heads, (rate, last_rate) = next(levels)
      for i in range(blocks):
        x = window_block(
          heads,
          self.window_size,
          self.expansion,
          rate,
          options,
          name=f'{name}_block{i}',
        )(x, z, train)
      if name == 'bottleneck':
        return x
      return spatial_block(
        heads,
        self.window_size,
        self.expansion,
        last_rate,
        options,
        name=f'{name}_block{blocks}',
      )(x, z, train)

    depth = len(self.blocks) // 2
    x = image.astype(self._compute_dtype(image))
    x = ModulatedConv(self.features, 3, name='input', **options)(x, z)
    x = nn.leaky_relu(x, 0.01)
    skips = []
    for i in range(1, depth + 1):
      x = level(x, f'encoder{i}')
      skips.append(x)
      x = ModulatedConv(2 * x.shape[-1], 4, 2, 1, name=f'down{i}', **options)(
        x, z
      )
    x = level(x, 'bottleneck')
    for i in range(depth, 0, -1):
      skip = skips.pop()
      x = ModulatedConvTranspose(
        skip.shape[-1], 2, 2, name=f'up{i}', **options
      )(x, z)
      x = level(jnp.concatenate([x, skip], axis=-1), f'decoder{i}')
    x = ModulatedConv(3, 3, name='output', **options)(x, z)
    restored = at_least_float32(image) + x
    return {'restored': restored} if all_outputs else restored

  def _check_size(self, image: Array) -> None:
    """Raises ValueError unless windows fill the grids of this image."""
    depth = len(self.blocks) // 2
    multiple = self.window_size * 2**depth
    if self.image_size < multiple or self.image_size % multiple:
      raise ValueError(
        f'image_size {self.image_size} must be a multiple of {multiple}, so '
        f'that windows of {self.window_size} fill every level'
      )
    if image.shape[1:3] != (self.image_size, self.image_size):
      raise ValueError(
        f'image {list(image.shape)} must be [b, {self.image_size}, '
        f'{self.image_size}, 3]; restore others in tiles of this size, see '
        'common.tiling'
      )


def drop_path_rates(
  rate: float, blocks: Sequence[int]
) -> list[tuple[float, float]]:
  """Drop path rates of the levels of IDT.

  They rise from 0 to `rate` over the window blocks of the encoder, and fall
  again over those of the decoder. All window blocks of a level have the first
  rate of its part of the ramp, and its spatial block has the last.

  Args:
    rate: the largest.
    blocks: window blocks of the levels: encoder, bottleneck, decoder.

  Returns:
    Pairs of rates, of the window blocks and of the spatial block.
  """
  depth = len(blocks) // 2
  ramp = np.linspace(0, rate, sum(blocks[:depth])).tolist()
  rates = ramp + [rate] * blocks[depth] + ramp[::-1] + [0.0] * sum(blocks)
  ends = np.cumsum(blocks)
  return [
    (rates[end - count], rates[end - 1])
    for count, end in zip(blocks, ends, strict=True)
  ]
