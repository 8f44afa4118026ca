"""Swin transformers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from common.array_types import Array, at_least_float32
from common.layers import (
  DropPath,
  from_windows,
  initializers,
  LayerNorm,
  materialized,
  Mlp,
  relative_positions,
  SelfAttention,
  to_windows,
)
from rsdjax.models.network import (
  linear_ramp,
  Network,
  Outputs,
  outputs,
  require_multiple,
)
from rsdjax.models.tokens import flatten_grid, PatchEmbedding

_normal = initializers.normal(0.02)
_LayerNorm = functools.partial(LayerNorm, epsilon=1e-5)


class SwinBlock(nn.Module):
  """Attention within windows and MLP, behind LayerNorms, beside shortcuts.

  Attributes:
    num_heads: heads of the attention.
    window_size: side of a window in tokens.
    shift: by how many tokens the windows are shifted up and left.
    drop_path_rate: probability of dropping either branch for an example.
    dtype: of the computation.
  """

  num_heads: int
  window_size: int
  shift: int = 0
  drop_path_rate: float = 0.0
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps a grid [b, h, w, c] to [b, h, w, c]."""
    grid = x.shape
    drop_path = DropPath(self.drop_path_rate)

    def windows(normed: Partial) -> Array:
      shifted = jnp.roll(normed(), (-self.shift, -self.shift), (1, 2))
      return to_windows(shifted, self.window_size)

    normed = _LayerNorm(dtype=self.dtype, name='norm1').deferred(x)
    branch = SelfAttention(self.num_heads, self.dtype, name='attention')(
      Partial(windows, normed), self._bias(grid[1], grid[2])
    )
    branch = from_windows(branch, self.window_size, grid)
    branch = jnp.roll(branch, (self.shift, self.shift), (1, 2))
    x = materialized(x + drop_path(branch, train=train))
    normed = _LayerNorm(dtype=self.dtype, name='norm2').deferred(x)
    branch = Mlp(4 * x.shape[-1], self.dtype, name='mlp')(normed)
    return materialized(x + drop_path(branch, train=train))

  def _bias(self, height: int, width: int) -> Array:
    """Added to the scores: [1, windows or 1, heads, tokens, tokens]."""
    side = self.window_size
    table = self.param(
      'relative_position_table',
      _normal,
      ((2 * side - 1) ** 2, self.num_heads),
    )
    bias = jnp.moveaxis(table[relative_positions(side)], -1, 0)[None, None]
    if self.shift == 0:
      return bias
    mask = shift_mask(height, width, side, self.shift)
    return bias + mask[None, :, None].astype(bias.dtype)


class PatchMerging(nn.Module):
  """Halves the grid and doubles the width: LayerNorm and linear of 2 x 2.

  Attributes:
    dtype: of the computation.
  """

  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [b, h, w, c] to [b, h / 2, w / 2, 2 * c]."""
    # Down a column first: (0, 0), (1, 0), (0, 1), (1, 1).
    corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    merged = jnp.concatenate(corners, -1)
    merged = _LayerNorm(dtype=self.dtype, name='norm')(merged)
    return nn.Dense(
      2 * x.shape[-1],
      use_bias=False,
      dtype=self.dtype,
      kernel_init=_normal,
      name='reduction',
    )(merged)


class SwinTransformer(Network):
  """Swin transformer.

  A grid that is no larger than the window is one window; any other must be a
  multiple of it, in every stage. The stage features are the outputs of the
  last blocks of the stages, as tokens, before any merging and norm. The
  embedding is the mean of the tokens after the last LayerNorm.

  Attributes:
    drop_path_rate: as in `Network`, but 0.1 unless told otherwise.
    patch_size: side of a patch in pixels.
    window_size: side of a window in tokens.
    width: width of the first stage; it doubles from stage to stage.
    depths: number of blocks in each stage.
    num_heads: heads of the attention in each stage.

  Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using
  Shifted Windows", ICCV 2021; timm 0.6.5.
  """

  drop_path_rate: float = 0.1
  patch_size: int = 4
  window_size: int = 7
  width: int = 96
  depths: tuple[int, ...] = (2, 2, 6, 2)
  num_heads: tuple[int, ...] = (3, 6, 12, 24)

  def check_image_size(self, height: int, width: int) -> None:
    """Raises ValueError unless windows fill the grid of every stage."""
    cell = self.patch_size * 2 ** (len(self.depths) - 1)
    require_multiple(height, width, of=cell)
    for stage in range(len(self.depths)):
      cell = self.patch_size * 2**stage
      grid = (height // cell, width // cell)
      side = min(*grid, self.window_size)
      if grid[0] % side or grid[1] % side:
        raise ValueError(
          f'image size {height}x{width} gives stage {stage + 1} a grid of '
          f'{grid[0]}x{grid[1]}, which must be a multiple of the window of '
          f'{side} or no larger; change image_size, window_size or patch_size'
        )

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, features: bool = False
  ) -> Array | Outputs:
    """Classifies images; see `Network`."""
    self._check_images(images)
    embed = PatchEmbedding(
      self.width, self.patch_size, self.dtype, name='patches'
    )
    norm = functools.partial(_LayerNorm, dtype=self.dtype)
    x = norm(name='patch_norm')(embed(images))
    stages = []
    drop_path_rates = iter(linear_ramp(self.drop_path_rate, sum(self.depths)))
    block = self._rematerialised(SwinBlock)
    stage_sizes = zip(self.depths, self.num_heads, strict=True)
    for stage, (depth, num_heads) in enumerate(stage_sizes, 1):
      if stage > 1:
        x = PatchMerging(self.dtype, name=f'stage{stage}_merging')(x)
      side = min(*x.shape[1:3], self.window_size)
      shifts = side < min(x.shape[1:3])
      for i in range(depth):
        x = block(
          num_heads,
          side,
          side // 2 if shifts and i % 2 else 0,
          next(drop_path_rates),
          self.dtype,
          name=f'stage{stage}_block{i}',
        )(x, train)
      stages.append(flatten_grid(x))
    embedding = at_least_float32(norm(name='norm')(x)).mean((1, 2))
    logits = nn.Dense(self.num_classes, kernel_init=_normal, name='classifier')(
      embedding
    )
    return outputs(logits, embedding, stages, features=features)


def shift_mask(height: int, width: int, side: int, shift: int) -> np.ndarray:
  """Keeps apart what was not adjacent before the shift: -100 or 0.

  Args:
    height: rows of the grid.
    width: columns of the grid.
    side: side of a window.
    shift: by how much the grid was rolled up and left.

  Returns:
    Float [windows, side * side, side * side].
  """

  def region(length: int) -> np.ndarray:
    """0 in whole windows, 1 and 2 in the two parts of the last one."""
    place = np.arange(length)
    return (place >= length - side).astype(int) + (place >= length - shift)

  regions = 3 * region(height)[:, None] + region(width)[None]
  windows = np.asarray(to_windows(regions[None, :, :, None], side))[0, :, :, 0]
  return np.where(windows[:, :, None] != windows[:, None], -100.0, 0.0)
