"""Vision transformers in PyTorch, with the parameter names of timm 0.6.5."""

import torch
from torch import nn

from benchmarks.peers.mlp import Mlp


class PatchEmbedding(nn.Module):
  """Cuts images into patches and maps each to a token."""

  def __init__(
    self, features: int, patch_size: int, norm: nn.Module | None = None
  ) -> None:
    super().__init__()
    self.proj = nn.Conv2d(3, features, patch_size, patch_size)
    self.norm = norm or nn.Identity()

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Maps [b, 3, h, w] to tokens [b, n, features]."""
    return self.norm(self.proj(images).flatten(2).transpose(1, 2))


class Attention(nn.Module):
  """Self-attention, written out."""

  def __init__(self, features: int, num_heads: int) -> None:
    super().__init__()
    self.num_heads = num_heads
    self.scale = (features // num_heads) ** -0.5
    self.qkv = nn.Linear(features, 3 * features)
    self.proj = nn.Linear(features, features)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, n, d] to [b, n, d]."""
    batch, tokens, features = x.shape
    qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    weights = (query @ key.transpose(-2, -1) * self.scale).softmax(-1)
    mixed = (weights @ value).transpose(1, 2)
    return self.proj(mixed.reshape(batch, tokens, features))


class Block(nn.Module):
  """Attention and MLP, each behind a LayerNorm and beside a shortcut."""

  def __init__(self, features: int, num_heads: int) -> None:
    super().__init__()
    self.norm1 = nn.LayerNorm(features, eps=1e-6)
    self.attn = Attention(features, num_heads)
    self.norm2 = nn.LayerNorm(features, eps=1e-6)
    self.mlp = Mlp(features)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, n, d] to [b, n, d]."""
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
  """Vision transformer; fields as `rsdjax.models.vit.VisionTransformer`."""

  def __init__(
    self,
    *,
    num_classes: int,
    image_size: int,
    patch_size: int,
    width: int,
    depth: int,
    num_heads: int,
  ) -> None:
    super().__init__()
    tokens = 1 + (image_size // patch_size) ** 2
    self.patch_embed = PatchEmbedding(width, patch_size)
    self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
    self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
    self.blocks = nn.Sequential(
      *(Block(width, num_heads) for _ in range(depth))
    )
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.head = nn.Linear(width, num_classes)

  def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and embedding of images [b, 3, h, w]."""
    class_tokens = self.cls_token.expand(len(images), -1, -1)
    x = torch.cat([class_tokens, self.patch_embed(images)], 1) + self.pos_embed
    embedding = self.norm(self.blocks(x))[:, 0]
    return self.head(embedding), embedding
