"""The contrastive branch of CoIC in PyTorch: views, momentum encoder, loss."""

import collections
import copy

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from benchmarks.peers.encoder import Encoder

_BLUR_REACH = 5
_BLUR_RANGE = (0.3, 1.5)


def gaussian_blur(image: Tensor, sigma: Tensor) -> Tensor:
  """Blurs [b, c, h, w] by a Gaussian of 11 x 11 pixels and sigma [b]."""
  batch, channels, height, width = image.shape
  reach = _BLUR_REACH
  places = torch.arange(-reach, reach + 1, dtype=image.dtype)
  taps = (-places.square() / (2 * sigma[:, None].square())).softmax(-1)
  taps = taps.repeat_interleave(channels, dim=0)[:, None]
  x = F.pad(image, (reach,) * 4, mode='reflect').flatten(0, 1)[None]
  x = F.conv2d(x, taps[:, :, None], groups=batch * channels)
  x = F.conv2d(x, taps[..., None], groups=batch * channels)
  return x.view(batch, channels, height, width)


def random_flips(image: Tensor) -> Tensor:
  """Flips each of [b, c, h, w] left-right or not, and up-down or not."""
  for axis in (3, 2):
    flipped = torch.rand(len(image), 1, 1, 1) < 0.5
    image = torch.where(flipped, image.flip(axis), image)
  return image


class Views(nn.Module):
  """Makes keys and negatives.

  Args:
    count: blurred scenes for each image.
    recent_batches: whose rain is chosen from.
  """

  def __init__(self, count: int = 4, recent_batches: int = 1):
    super().__init__()
    self.count = count
    self.bank: collections.deque[Tensor] = collections.deque(
      maxlen=recent_batches
    )

  @torch.no_grad()
  def rain_aware_negative(self, image: Tensor, target: Tensor) -> Tensor:
    """Clean images under the rain of recent batches that differs most."""
    own = image - target
    self.bank.append(own)
    layers = torch.cat([*self.bank])
    distances = (own[:, None] - layers).abs().sum((2, 3, 4))
    return (target + layers[distances.argmax(1)]).clamp(0, 1)

  @torch.no_grad()
  def forward(
    self, image: Tensor, target: Tensor, whole: Tensor, whole_target: Tensor
  ) -> tuple[Tensor, Tensor]:
    """Gives keys [b, 3, h, w] and negatives [b, 1 + count, 3, h, w]."""
    rain = self.rain_aware_negative(image, target)
    copies = whole_target.repeat_interleave(self.count, dim=0)
    sigma = torch.empty(len(copies)).uniform_(*_BLUR_RANGE)
    blurred = random_flips(gaussian_blur(copies, sigma))
    blurred = blurred.unflatten(0, (-1, self.count))
    return random_flips(whole), torch.cat([rain[:, None], blurred], dim=1)


class Contrast(nn.Module):
  """The encoder beside its slow copy.

  Args:
    encoder: the one to train.
    momentum: weight of the copy's old parameters.
    temperature: divides the similarities.
  """

  def __init__(
    self, encoder: Encoder, momentum: float = 0.999, temperature: float = 1.0
  ):
    super().__init__()
    self.encoder = encoder
    self.momentum_encoder = copy.deepcopy(encoder).requires_grad_(False)
    self.momentum = momentum
    self.temperature = temperature

  def forward(
    self, query: Tensor, key: Tensor, negatives: Tensor
  ) -> tuple[Tensor, Tensor]:
    """Gives the loss and z [b, 128]."""
    z, features = self.encoder(query)
    with torch.no_grad():
      for slow, fast in zip(
        self.momentum_encoder.parameters(),
        self.encoder.parameters(),
        strict=True,
      ):
        slow.mul_(self.momentum).add_(fast, alpha=1 - self.momentum)
      _, others = self.momentum_encoder(
        torch.cat([key, negatives.flatten(0, 1)])
      )
    batch = len(query)
    others = torch.cat(
      [others[:batch, None], others[batch:].unflatten(0, (batch, -1))], dim=1
    )
    logits = (features[:, None] * others).sum(2).mean((2, 3))
    labels = torch.zeros(batch, dtype=torch.long)
    return F.cross_entropy(logits / self.temperature, labels), z
