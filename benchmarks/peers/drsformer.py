"""DRSformer in PyTorch."""

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from benchmarks.peers.modulation import EMBEDDING_FEATURES, ModulatedConv2d


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, 1, bias=False)


def _depthwise(features: int, size: int, dilation: int = 1) -> ModulatedConv2d:
  return ModulatedConv2d(
    features, features, size, groups=features, dilation=dilation, bias=False
  )


class _LayerNorm(nn.Module):
  """Over channels."""

  def __init__(self, features: int):
    super().__init__()
    self.body = nn.LayerNorm(features)

  def forward(self, x: Tensor) -> Tensor:
    return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Attention(nn.Module):
  """TKSA: attention among channels that keeps the largest entries."""

  def __init__(self, features: int, heads: int):
    super().__init__()
    self.heads = heads
    self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
    for i in range(1, 5):
      self.register_parameter(f'attn{i}', nn.Parameter(torch.tensor([0.2])))
    self.to_q = _pointwise(features, features)
    self.to_kv = _pointwise(features, 2 * features)
    self.qkv_dwconv = nn.Conv2d(
      3 * features, 3 * features, 3, padding=1, groups=3 * features, bias=False
    )
    self.project_out = _pointwise(features, features)

  def forward(self, x: Tensor, source: Tensor) -> Tensor:
    qkv = torch.cat([self.to_q(x), self.to_kv(source)], 1)
    q, k, v = (
      part.unflatten(1, (self.heads, -1)).flatten(3)
      for part in self.qkv_dwconv(qkv).chunk(3, dim=1)
    )
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    scores = (q @ k.transpose(-2, -1)) * self.temperature
    channels = scores.shape[-1]
    weights = (self.attn1, self.attn2, self.attn3, self.attn4)
    mixed = torch.zeros_like(v)
    for weight, (above, below) in zip(
      weights, ((1, 2), (2, 3), (3, 4), (4, 5)), strict=True
    ):
      kept = scores.topk(channels * above // below, dim=-1).indices
      mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, kept, True)
      sparse = scores.masked_fill(~mask, float('-inf')).softmax(-1)
      mixed = mixed + weight * (sparse @ v)
    return self.project_out(mixed.view(x.shape))


class _FeedForward(nn.Module):
  """MSFN: two rounds of convolutions of two sizes that exchange halves."""

  def __init__(self, features: int, expansion: float = 2.66):
    super().__init__()
    hidden = int(features * expansion)
    self.project_in = _pointwise(features, 2 * hidden)
    self.dwconv3x3 = _depthwise(2 * hidden, 3)
    self.dwconv5x5 = _depthwise(2 * hidden, 5)
    self.dwconv3x3_1, self.dwconv5x5_1 = (
      ModulatedConv2d(2 * hidden, hidden, size, groups=hidden, bias=False)
      for size in (3, 5)
    )
    self.project_out = _pointwise(2 * hidden, features)

  def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
    x = self.project_in(x)
    small = torch.relu(self.dwconv3x3(x, z)).chunk(2, dim=1)
    large = torch.relu(self.dwconv5x5(x, z)).chunk(2, dim=1)
    first = torch.cat([small[0], large[0]], 1)
    second = torch.cat([small[1], large[1]], 1)
    first = torch.relu(self.dwconv3x3_1(first, z))
    second = torch.relu(self.dwconv5x5_1(second, z))
    return self.project_out(torch.cat([first, second], 1))


class _Block(nn.Module):
  """STB: sparse attention and mixed-scale feed-forward, beside shortcuts."""

  def __init__(self, features: int, heads: int):
    super().__init__()
    self.context_emb = nn.Sequential(
      nn.SiLU(), nn.Linear(EMBEDDING_FEATURES, features)
    )
    self.norm1_q = _LayerNorm(features)
    self.norm1_kv = _LayerNorm(features)
    self.attn = _Attention(features, heads)
    self.norm2 = _LayerNorm(features)
    self.ffn = _FeedForward(features)

  def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
    source = x if z is None else x + self.context_emb(z)[:, :, None, None]
    x = x + self.attn(self.norm1_q(x), self.norm1_kv(source))
    return x + self.ffn(self.norm2(x), z)


class _Separable(nn.Module):
  """Two depthwise convolutions, each before a pointwise one."""

  def __init__(self, features: int, size: int):
    super().__init__()
    self.op = nn.ModuleList(
      [
        _depthwise(features, size),
        _pointwise(features, features),
        nn.ReLU(),
        _depthwise(features, size),
        _pointwise(features, features),
      ]
    )

  def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
    x = self.op[2](self.op[1](self.op[0](x, z)))
    return self.op[4](self.op[3](x, z))


class _Dilated(nn.Module):
  """A depthwise convolution with holes before a pointwise one."""

  def __init__(self, features: int, size: int):
    super().__init__()
    self.op = nn.ModuleList(
      [_depthwise(features, size, dilation=2), _pointwise(features, features)]
    )

  def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
    return self.op[1](self.op[0](x, z))


class _ExpertStep(nn.Module):
  """Eight experts on one input, gated and merged."""

  def __init__(self, features: int):
    super().__init__()
    self._ops = nn.ModuleList(
      [
        *(_Separable(features, size) for size in (1, 3, 5, 7)),
        *(_Dilated(features, size) for size in (3, 5, 7)),
      ]
    )
    self._out = nn.Sequential(_pointwise(8 * features, features), nn.ReLU())

  def forward(self, x: Tensor, gates: Tensor, z: Tensor | None) -> Tensor:
    experts = [op(x, z) for op in self._ops]
    experts.append(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
    gated = [e * gates[:, i, None, None, None] for i, e in enumerate(experts)]
    return self._out(torch.cat(gated, 1))


class _Gates(nn.Module):
  """Gates of all experts of all steps, from the average of x."""

  def __init__(self, features: int, steps: int):
    super().__init__()
    self.steps = steps
    self.ca_fc = nn.Sequential(
      nn.Linear(features, 16 * steps),
      nn.ReLU(),
      nn.Linear(16 * steps, 8 * steps),
    )

  def forward(self, x: Tensor) -> Tensor:
    logits = self.ca_fc(x.mean((2, 3)))
    return logits.unflatten(1, (self.steps, 8)).softmax(-1)


class _ExpertSteps(nn.Module):
  """The steps of a mixture, each beside a shortcut."""

  def __init__(self, features: int, steps: int):
    super().__init__()
    self.preprocess = nn.ModuleDict(
      {'op': nn.Sequential(_pointwise(features, features), nn.ReLU())}
    )
    self._ops = nn.ModuleList(_ExpertStep(features) for _ in range(steps))

  def forward(self, x: Tensor, gates: Tensor, z: Tensor | None) -> Tensor:
    x = self.preprocess['op'](x)
    for i, op in enumerate(self._ops):
      x = torch.relu(op(x, gates[:, i], z) + x)
    return x


class _ExpertMixture(nn.Module):
  """MEFC: steps of eight convolutional experts."""

  def __init__(self, features: int, steps: int = 4):
    super().__init__()
    self.layers = nn.ModuleList(
      [_Gates(features, steps), _ExpertSteps(features, steps)]
    )

  def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
    return self.layers[1](x, self.layers[0](x), z)


class _Resize(nn.Module):
  """A convolution, and then pixels to channels or back."""

  def __init__(self, inputs: int, outputs: int, shuffle: nn.Module):
    super().__init__()
    conv = ModulatedConv2d(inputs, outputs, bias=False)
    self.body = nn.ModuleList([conv, shuffle])

  def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
    return self.body[1](self.body[0](x, z))


class DRSformer(nn.Module):
  """A U-Net of sparse transformer blocks between two mixtures of experts.

  Args:
    features: channels of the first level.
    blocks: number of blocks in each level, the last of which is the bottom.
    heads: heads of the attention in each level.
  """

  def __init__(
    self,
    features: int = 48,
    blocks: tuple[int, ...] = (4, 6, 6, 8),
    heads: tuple[int, ...] = (1, 2, 4, 8),
  ):
    super().__init__()
    self.depth = len(blocks) - 1

    def level(width: int, index: int) -> nn.ModuleList:
      return nn.ModuleList(
        _Block(width, heads[index]) for _ in range(blocks[index])
      )

    self.patch_embed = nn.ModuleDict(
      {'proj': ModulatedConv2d(3, features, bias=False)}
    )
    self.encoder_level0 = _ExpertMixture(features)
    for i in range(1, self.depth + 1):
      width = 2 ** (i - 1) * features
      self.add_module(f'encoder_level{i}', level(width, i - 1))
      self.add_module(
        f'down{i}_{i + 1}', _Resize(width, width // 2, nn.PixelUnshuffle(2))
      )
      self.add_module(
        f'up{i + 1}_{i}', _Resize(2 * width, 4 * width, nn.PixelShuffle(2))
      )
      if i > 1:
        self.add_module(f'reduce_chan_level{i}', _pointwise(2 * width, width))
      decoder = level(width if i > 1 else 2 * width, i - 1)
      self.add_module(f'decoder_level{i}', decoder)
    self.latent = level(2**self.depth * features, self.depth)
    self.refinement = _ExpertMixture(2 * features)
    self.output = ModulatedConv2d(2 * features, 3, bias=False)

  def forward(self, image: Tensor, z: Tensor | None = None) -> Tensor:
    """Restores images [b, 3, h, w] with sides of multiples of 8."""

    def level(x: Tensor, name: str) -> Tensor:
      for block in getattr(self, name):
        x = block(x, z)
      return x

    x = self.encoder_level0(self.patch_embed['proj'](image, z), z)
    skips = []
    for i in range(1, self.depth + 1):
      x = level(x, f'encoder_level{i}')
      skips.append(x)
      x = getattr(self, f'down{i}_{i + 1}')(x, z)
    x = level(x, 'latent')
    for i in range(self.depth, 0, -1):
      x = torch.cat([getattr(self, f'up{i + 1}_{i}')(x, z), skips.pop()], 1)
      if i > 1:
        x = getattr(self, f'reduce_chan_level{i}')(x)
      x = level(x, f'decoder_level{i}')
    return self.output(self.refinement(x, z), z) + image
