"""Training steps of CoIC in PyTorch."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from benchmarks.peers.contrast import Contrast, Views

Loss = Callable[[Tensor, Tensor], Tensor]


class SSIMLoss(nn.Module):
  """Minus SSIM under a Gaussian window, with zeros around the images."""

  def __init__(self, channels: int = 3, size: int = 11, sigma: float = 1.5):
    super().__init__()
    places = torch.arange(size) - size // 2
    taps = (-places.square() / (2 * sigma**2)).softmax(0)
    window = (taps[:, None] * taps).expand(channels, 1, size, size)
    self.register_buffer('window', window.contiguous())

  def forward(self, restored: Tensor, target: Tensor) -> Tensor:
    """Maps two batches [b, c, h, w] to a scalar."""

    def mean(x: Tensor) -> Tensor:
      padding = self.window.shape[-1] // 2
      return F.conv2d(x, self.window, padding=padding, groups=x.shape[1])

    mean1, mean2 = mean(restored), mean(target)
    variance1 = mean(restored.square()) - mean1.square()
    variance2 = mean(target.square()) - mean2.square()
    covariance = mean(restored * target) - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean1 * mean2 + c1) / (
      mean1.square() + mean2.square() + c1
    )
    contrast = (2 * covariance + c2) / (variance1 + variance2 + c2)
    return -(luminance * contrast).mean()


@dataclasses.dataclass(kw_only=True)
class Trainer:
  """One of the two stages of a training.

  Attributes:
    network: the derainer.
    optimizer: of network and, in the second stage, encoder.
    loss: of restored and clean images.
    contrast: the encoders; None in the first stage.
    views: what they compare; None in the first stage.
    contrastive_weight: of the contrastive loss.
    clip_norm: of the gradients of the network.
  """

  network: nn.Module
  optimizer: torch.optim.Optimizer
  loss: Loss
  contrast: Contrast | None = None
  views: Views | None = None
  contrastive_weight: float = 0.2
  clip_norm: float | None = None

  def gradients(
    self,
    batch: Mapping[str, Tensor],
    drawn: tuple[Tensor, Tensor] | None = None,
  ) -> dict[str, Tensor]:
    """Puts gradients into the parameters.

    Args:
      batch: uint8 [b, 3, h, w] by name, as ours takes it.
      drawn: keys and negatives to use in place of drawing them.

    Returns:
      Losses by name.
    """
    images = {name: x.float() / 255 for name, x in batch.items()}
    z, terms = None, {}
    if self.contrast is not None and self.views is not None:
      whole = images['whole_input']
      key, negatives = drawn or self.views(
        images['input'], images['target'], whole, images['whole_target']
      )
      terms['contrastive_loss'], z = self.contrast(whole, key, negatives)
    loss = self.loss(self.network(images['input'], z), images['target'])
    terms['restoration_loss'] = loss
    if z is not None:
      loss = loss + self.contrastive_weight * terms['contrastive_loss']
    self.optimizer.zero_grad()
    loss.backward()
    if self.clip_norm is not None:
      nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
    return {'loss': loss, **terms}

  def step(self, batch: Mapping[str, Tensor]) -> float:
    """Does one step, and gives its loss."""
    terms = self.gradients(batch)
    self.optimizer.step()
    return terms['loss'].item()
