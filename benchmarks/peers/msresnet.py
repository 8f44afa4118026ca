"""MSResNet, with the names of the published tensors less `net.layer_dict.`."""

import torch
import torch.nn.functional as F
from torch import nn


def _he_(weight: torch.Tensor) -> nn.Parameter:
  return nn.Parameter(nn.init.kaiming_normal_(weight))


class BatchNorm(nn.Module):
  """Batch normalisation with the published names of its statistics."""

  def __init__(self, features: int):
    super().__init__()
    self.register_buffer('r_mean', torch.zeros(features))
    self.register_buffer('r_var', torch.ones(features))
    self.bias = nn.Parameter(torch.zeros(features))
    self.weight = nn.Parameter(torch.ones(features))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, c, h, w] to the same shape."""
    return F.batch_norm(
      x,
      self.r_mean,
      self.r_var,
      self.weight,
      self.bias,
      training=self.training,
      momentum=0.1,
      eps=1e-5,
    )


class ChannelAttention(nn.Module):
  """Gates the channels by their means."""

  def __init__(self, features: int, hidden: int = 4):
    super().__init__()
    self.w1 = _he_(torch.empty(hidden, features))
    self.w2 = _he_(torch.empty(features, hidden))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, c, h, w] to the same shape."""
    hidden = F.relu(F.linear(x.mean((2, 3)), self.w1))
    return x * torch.sigmoid(F.linear(hidden, self.w2))[:, :, None, None]


def _conv(inputs: int, outputs: int, **options: bool | int) -> nn.Conv2d:
  conv = nn.Conv2d(inputs, outputs, 3, **{'padding': 1, **options})
  nn.init.kaiming_normal_(conv.weight)
  if conv.bias is not None:
    nn.init.zeros_(conv.bias)
  return conv


class Unit(nn.Module):
  """Convolution, normalisation, PReLU."""

  def __init__(self, features: int):
    super().__init__()
    self.conv = _conv(features, features, bias=False)
    self.bn = BatchNorm(features)
    self.prelu = nn.PReLU()

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, c, h, w] to the same shape."""
    return self.prelu(self.bn(self.conv(x)))


class MultiScaleBlock(nn.Module):
  """Branches of dilated convolutions beside a shortcut."""

  def __init__(self, features: int):
    super().__init__()
    self.layer_dict = nn.ModuleDict()
    for dilation in (1, 2, 3):
      for position in (0, 1):
        self.layer_dict[f'conv-s{position}-d{dilation}'] = _conv(
          features, features, padding=dilation, dilation=dilation
        )
    self.layer_dict['bn'] = BatchNorm(features)
    self.layer_dict['se'] = ChannelAttention(features)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, c, h, w] to the same shape."""
    layers = self.layer_dict
    total: torch.Tensor | float = 0.0
    for dilation in (1, 2, 3):
      branch = F.leaky_relu(layers[f'conv-s0-d{dilation}'](x), 0.2)
      branch = F.leaky_relu(layers[f'conv-s1-d{dilation}'](branch), 0.2)
      total = total + branch
    return layers['se'](layers['bn'](total)) + x


class ResidualBlock(nn.Module):
  """Four units with two shortcuts, a fifth convolution, a gate."""

  def __init__(self, features: int):
    super().__init__()
    self.layer_dict = nn.ModuleDict(
      {f'cbr{unit}': Unit(features) for unit in (1, 2, 3, 4)}
    )
    self.layer_dict['trans'] = _conv(features, features, bias=False)
    self.layer_dict['bn'] = BatchNorm(features)
    self.layer_dict['se'] = ChannelAttention(features)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, c, h, w] to the same shape."""
    layers = self.layer_dict
    x = layers['cbr2'](layers['cbr1'](x)) + x
    x = layers['cbr4'](layers['cbr3'](x)) + x
    return layers['se'](layers['bn'](layers['trans'](x)))


class Stage(nn.Module):
  """Both blocks beside one shortcut."""

  def __init__(self, features: int):
    super().__init__()
    self.msb = MultiScaleBlock(features)
    self.rb = ResidualBlock(features)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [b, c, h, w] to the same shape."""
    return F.leaky_relu(x + self.rb(self.msb(x)), 0.2)


class MSResNet(nn.Module):
  """The image less the degradation that is predicted."""

  def __init__(self, features: int = 48, stages: int = 4, channels: int = 3):
    super().__init__()
    self.stages = stages
    self.head = _conv(channels, features, bias=False)
    for stage in range(1, stages + 1):
      self.add_module(f'body{stage}', Stage(features))
    self.conv_tail = _conv(features, features, bias=False)
    self.bn_tail = BatchNorm(features)
    self.se_tail = ChannelAttention(features)
    self.tail = _conv(features, channels, bias=False)

  def forward(self, image: torch.Tensor) -> torch.Tensor:
    """Maps [b, channels, h, w] to the same shape."""
    x = F.leaky_relu(self.head(image), 0.2)
    for stage in range(1, self.stages + 1):
      x = getattr(self, f'body{stage}')(x)
    x = self.se_tail(self.bn_tail(self.conv_tail(x)))
    return image - self.tail(F.leaky_relu(x, 0.2))
