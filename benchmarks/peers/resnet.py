"""Residual networks in PyTorch, with the parameter names of timm 0.6.5."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions beside a shortcut."""

  def __init__(self, inputs: int, features: int, stride: int) -> None:
    super().__init__()
    self.conv1 = _conv(inputs, features, 3, stride)
    self.bn1 = nn.BatchNorm2d(features)
    self.conv2 = _conv(features, features, 3)
    self.bn2 = nn.BatchNorm2d(features)
    self.downsample = nn.Identity()
    if stride > 1 or inputs != features:
      self.downsample = nn.Sequential(
        _conv(inputs, features, 1, stride), nn.BatchNorm2d(features)
      )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, inputs, h, w] to [b, features, h / stride, w / stride]."""
    branch = F.relu(self.bn1(self.conv1(x)), inplace=True)
    branch = self.bn2(self.conv2(branch))
    branch += self.downsample(x)
    return F.relu(branch, inplace=True)


class ResNet(nn.Module):
  """ResNet of basic blocks; fields as `rsdjax.models.resnet.ResNet`."""

  def __init__(
    self,
    *,
    num_classes: int,
    depths: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    small_stem: bool = False,
  ) -> None:
    super().__init__()
    self.conv1 = _conv(3, width, 3) if small_stem else _conv(3, width, 7, 2)
    self.bn1 = nn.BatchNorm2d(width)
    self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, 2, 1)
    self.stages = len(depths)
    inputs = width
    for i, depth in enumerate(depths):
      features = width * 2**i
      blocks = [BasicBlock(inputs, features, 2 if i else 1)]
      blocks += [BasicBlock(features, features, 1) for _ in range(depth - 1)]
      self.add_module(f'layer{i + 1}', nn.Sequential(*blocks))
      inputs = features
    self.fc = nn.Linear(inputs, num_classes)

  def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and embedding of images [b, 3, h, w]."""
    x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
    for i in range(self.stages):
      x = self.get_submodule(f'layer{i + 1}')(x)
    embedding = x.mean((2, 3))
    return self.fc(embedding), embedding
