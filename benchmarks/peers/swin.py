"""Swin transformers in PyTorch, with the parameter names of timm 0.6.5."""

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.peers.mlp import Mlp
from benchmarks.peers.vit import PatchEmbedding


def to_windows(x: torch.Tensor, side: int) -> torch.Tensor:
  """Cuts [b, h, w, c] into windows [b * windows, side * side, c]."""
  batch, height, width, channels = x.shape
  x = x.view(batch, height // side, side, width // side, side, channels)
  return x.transpose(2, 3).reshape(-1, side * side, channels)


def from_windows(
  windows: torch.Tensor, side: int, height: int, width: int
) -> torch.Tensor:
  """Inverse of `to_windows`."""
  channels = windows.shape[-1]
  x = windows.view(-1, height // side, width // side, side, side, channels)
  return x.transpose(2, 3).reshape(-1, height, width, channels)


def relative_positions(side: int) -> torch.Tensor:
  """Row of the table of biases for each pair of tokens in a window."""
  place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
  distance = place[:, None] - place[None] + side - 1
  return distance[..., 0] * (2 * side - 1) + distance[..., 1]


def shift_mask(grid: int, side: int, shift: int) -> torch.Tensor:
  """-100 between tokens that the shift has brought together, 0 elsewhere."""
  regions = torch.zeros(1, grid, grid, 1)
  slices = (slice(-side), slice(-side, -shift), slice(-shift, None))
  for number, (rows, columns) in enumerate(
    (rows, columns) for rows in slices for columns in slices
  ):
    regions[:, rows, columns] = number
  windows = to_windows(regions, side).squeeze(-1)
  apart = windows[:, :, None] != windows[:, None]
  return torch.zeros(apart.shape).masked_fill(apart, -100.0)


class WindowAttention(nn.Module):
  """Self-attention in windows, with a bias for each relative position."""

  def __init__(self, features: int, num_heads: int, side: int) -> None:
    super().__init__()
    self.num_heads = num_heads
    self.scale = (features // num_heads) ** -0.5
    self.qkv = nn.Linear(features, 3 * features)
    self.proj = nn.Linear(features, features)
    self.relative_position_bias_table = nn.Parameter(
      torch.zeros((2 * side - 1) ** 2, num_heads)
    )
    self.register_buffer(
      'relative_position_index', relative_positions(side), persistent=False
    )

  def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Maps [b * windows, n, d] to the same; mask [windows, n, n]."""
    groups, tokens, features = x.shape
    qkv = self.qkv(x).reshape(groups, tokens, 3, self.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = query * self.scale @ key.transpose(-2, -1)
    bias = self.relative_position_bias_table[self.relative_position_index]
    scores = scores + bias.permute(2, 0, 1)
    if mask is not None:
      scores = scores.view(-1, len(mask), *scores.shape[1:]) + mask[:, None]
      scores = scores.view(groups, self.num_heads, tokens, tokens)
    mixed = (scores.softmax(-1) @ value).transpose(1, 2)
    return self.proj(mixed.reshape(groups, tokens, features))


class Block(nn.Module):
  """Window attention and MLP, each behind a LayerNorm, beside a shortcut."""

  def __init__(
    self, features: int, num_heads: int, grid: int, side: int, shift: int
  ) -> None:
    super().__init__()
    self.grid, self.side, self.shift = grid, side, shift
    self.norm1 = nn.LayerNorm(features)
    self.attn = WindowAttention(features, num_heads, side)
    self.norm2 = nn.LayerNorm(features)
    self.mlp = Mlp(features)
    mask = shift_mask(grid, side, shift) if shift else None
    self.register_buffer('attn_mask', mask, persistent=False)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps tokens [b, grid * grid, d] to the same."""
    branch = self.norm1(x).view(-1, self.grid, self.grid, x.shape[-1])
    if self.shift:
      branch = branch.roll((-self.shift, -self.shift), (1, 2))
    branch = self.attn(to_windows(branch, self.side), self.attn_mask)
    branch = from_windows(branch, self.side, self.grid, self.grid)
    if self.shift:
      branch = branch.roll((self.shift, self.shift), (1, 2))
    x = x + branch.view(x.shape)
    return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
  """Halves the grid and doubles the width."""

  def __init__(self, features: int, grid: int) -> None:
    super().__init__()
    self.grid = grid
    self.norm = nn.LayerNorm(4 * features)
    self.reduction = nn.Linear(4 * features, 2 * features, bias=False)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps tokens [b, n, d] to [b, n / 4, 2 * d]."""
    x = x.view(len(x), self.grid, self.grid, -1)
    corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return self.reduction(self.norm(torch.cat(corners, -1).flatten(1, 2)))


class Stage(nn.Module):
  """Blocks whose windows are shifted in turn, and a merging but at the end."""

  def __init__(
    self,
    features: int,
    num_heads: int,
    grid: int,
    *,
    depth: int,
    window_size: int,
    merge: bool,
  ) -> None:
    super().__init__()
    side = min(grid, window_size)
    shift = side // 2 if side < grid else 0
    self.blocks = nn.Sequential(
      *(
        Block(features, num_heads, grid, side, shift if i % 2 else 0)
        for i in range(depth)
      )
    )
    self.downsample = PatchMerging(features, grid) if merge else nn.Identity()

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps tokens [b, n, d] to those of the next stage."""
    return self.downsample(self.blocks(x))


class SwinTransformer(nn.Module):
  """Swin transformer; fields as `rsdjax.models.swin.SwinTransformer`."""

  def __init__(
    self,
    *,
    num_classes: int,
    image_size: int,
    patch_size: int = 4,
    window_size: int = 7,
    width: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
  ) -> None:
    super().__init__()
    self.patch_embed = PatchEmbedding(width, patch_size, nn.LayerNorm(width))
    grid, last = image_size // patch_size, len(depths) - 1
    self.layers = nn.Sequential(
      *(
        Stage(
          width * 2**i,
          heads,
          grid // 2**i,
          depth=depth,
          window_size=window_size,
          merge=i < last,
        )
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True))
      )
    )
    self.norm = nn.LayerNorm(width * 2**last)
    self.head = nn.Linear(width * 2**last, num_classes)

  def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and embedding of images [b, 3, h, w]."""
    x = self.norm(self.layers(self.patch_embed(images)))
    embedding = x.mean(1)
    return self.head(embedding), embedding
