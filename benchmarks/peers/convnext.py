"""ConvNeXt in PyTorch, with the parameter names of timm 0.6.5."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers.mlp import Mlp

_EPSILON = 1e-6


class LayerNorm2d(nn.LayerNorm):
  """LayerNorm over the channels of [b, c, h, w]."""

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, c, h, w] to [b, c, h, w]."""
    x = x.permute(0, 2, 3, 1)
    x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
    return x.permute(0, 3, 1, 2)


class Block(nn.Module):
  """Depthwise 7x7 convolution and MLP under a layer scale, with a shortcut."""

  def __init__(self, channels: int) -> None:
    super().__init__()
    self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
    self.norm = nn.LayerNorm(channels, eps=_EPSILON)
    self.mlp = Mlp(channels)
    self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, c, h, w] to [b, c, h, w]."""
    branch = self.conv_dw(x).permute(0, 2, 3, 1)
    branch = self.gamma * self.mlp(self.norm(branch))
    return x + branch.permute(0, 3, 1, 2)


class Stage(nn.Module):
  """A reduction, but for the first stage, and blocks."""

  def __init__(self, inputs: int, channels: int, depth: int) -> None:
    super().__init__()
    self.downsample = nn.Identity()
    if inputs != channels:
      self.downsample = nn.Sequential(
        LayerNorm2d(inputs, eps=_EPSILON), nn.Conv2d(inputs, channels, 2, 2)
      )
    self.blocks = nn.Sequential(*(Block(channels) for _ in range(depth)))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, inputs, h, w] to [b, channels, h / 2, w / 2]."""
    return self.blocks(self.downsample(x))


class Head(nn.Module):
  """Mean over the map, LayerNorm, classifier."""

  def __init__(self, features: int, num_classes: int) -> None:
    super().__init__()
    self.norm = nn.LayerNorm(features, eps=_EPSILON)
    self.fc = nn.Linear(features, num_classes)

  def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and embedding of [b, c, h, w]."""
    embedding = self.norm(x.mean((2, 3)))
    return self.fc(embedding), embedding


class ConvNeXt(nn.Module):
  """ConvNeXt; the fields are those of `rsdjax.models.convnext.ConvNeXt`."""

  def __init__(
    self,
    *,
    num_classes: int,
    depths: Sequence[int] = (3, 3, 9, 3),
    width: int = 96,
  ) -> None:
    super().__init__()
    self.stem = nn.Sequential(
      nn.Conv2d(3, width, 4, 4), LayerNorm2d(width, eps=_EPSILON)
    )
    widths = [width * 2**i for i in range(len(depths))]
    stages = zip([width, *widths], widths, depths, strict=False)
    self.stages = nn.Sequential(*(Stage(*sizes) for sizes in stages))
    self.head = Head(widths[-1], num_classes)

  def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and embedding of images [b, 3, h, w]."""
    return self.head(self.stages(self.stem(images)))
