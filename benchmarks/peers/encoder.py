"""The encoder of CoIC in PyTorch."""

from torch import nn, Tensor
from torch.nn import functional as F

from benchmarks.peers.modulation import EMBEDDING_FEATURES

_SLOPE = 0.1


class _Block(nn.Module):
  """Two convolutions beside a shortcut, at half the resolution."""

  def __init__(self, inputs: int, outputs: int):
    super().__init__()
    self.block = nn.Sequential(
      nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
      nn.BatchNorm2d(outputs),
      nn.LeakyReLU(_SLOPE, inplace=True),
      nn.Conv2d(outputs, outputs, 3, padding=1),
      nn.BatchNorm2d(outputs),
    )
    self.short_cut = nn.Sequential(
      nn.Conv2d(inputs, outputs, 1, stride=2, bias=False),
      nn.BatchNorm2d(outputs),
    )

  def forward(self, x: Tensor) -> Tensor:
    """Maps [b, c, h, w] to [b, outputs, h / 2, w / 2]."""
    return F.leaky_relu(self.block(x) + self.short_cut(x), _SLOPE)


class Encoder(nn.Module):
  """Embeds images, and their places, on spheres."""

  def __init__(self, features: int = 32):
    super().__init__()
    self.conv1 = nn.Conv2d(3, features, 3, padding=1)
    self.resblock = nn.Sequential(
      *(_Block(2**i * features, 2 ** (i + 1) * features) for i in range(3))
    )
    self.mlp = nn.Sequential(
      nn.Linear(8 * features, EMBEDDING_FEATURES),
      nn.LeakyReLU(_SLOPE),
      nn.Linear(EMBEDDING_FEATURES, EMBEDDING_FEATURES),
    )

  def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
    """Gives z [b, 128] and features [b, c, h / 8, w / 8] of [b, 3, h, w]."""
    x = self.resblock(self.conv1(image))
    z = self.mlp(x.mean((2, 3)))
    return F.normalize(z, dim=1), F.normalize(x, dim=1)


def embed(encoder: Encoder, image: Tensor) -> Tensor:
  """Embeddings [b, 128] for restoring images [b, 3, h, w] of any size."""
  small = F.interpolate(image, (128, 128), mode='bilinear', antialias=False)
  return encoder(small)[0]
