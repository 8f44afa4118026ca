"""One step of TRNR, with one task after the other."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

Batch = Mapping[str, torch.Tensor]
Tasks = Mapping[str, Batch]


class SSIM(nn.Module):
  """Structural similarity, the mean of all positions."""

  def __init__(self, channels: int = 3, size: int = 11, sigma: float = 1.5):
    super().__init__()
    offsets = torch.arange(size) - size // 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    window = torch.outer(weights, weights).expand(channels, 1, size, size)
    self.register_buffer('window', window.contiguous())

  def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compares [b, c, h, w] in [0, 1]; gives a scalar."""

    def blur(image: torch.Tensor) -> torch.Tensor:
      return F.conv2d(image, self.window, groups=image.shape[1])

    mean_x, mean_y = blur(x), blur(y)
    xx, yy, xy = mean_x**2, mean_y**2, mean_x * mean_y
    variance_x, variance_y = blur(x * x) - xx, blur(y * y) - yy
    covariance = blur(x * y) - xy
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * xy + c1) * (2 * covariance + c2)) / (
      (xx + yy + c1) * (variance_x + variance_y + c2)
    )
    return similarity.mean()


class Trainer:
  """Network, inner learning rates and optimiser, as published for rain."""

  def __init__(
    self,
    network: nn.Module,
    inner_learning_rates: Mapping[str, float],
    *,
    inner_steps: int = 2,
    second_order: bool = False,
    ssim_weight: float = 5.0,
  ):
    self.network = network.train()
    self.rates = inner_learning_rates
    self.inner_steps = inner_steps
    self.second_order = second_order
    self.ssim_weight = ssim_weight
    self.ssim = SSIM()
    self.optimizer = torch.optim.Adam(
      network.parameters(), lr=1e-3, weight_decay=4e-5
    )

  def _loss(
    self, weights: dict[str, torch.Tensor], batch: Batch
  ) -> torch.Tensor:
    """The loss by other weights; running statistics are the network's own."""
    restored = functional_call(self.network, weights, (batch['input'],))
    similarity = self.ssim(restored, batch['target'])
    error = F.l1_loss(restored, batch['target'])
    return error + self.ssim_weight * (1 - similarity)

  def _task_loss(self, support: Batch, query: Batch) -> torch.Tensor:
    weights = dict(self.network.named_parameters())
    for step in range(self.inner_steps):
      loss = self._loss(weights, support)
      gradients = torch.autograd.grad(
        loss, list(weights.values()), create_graph=self.second_order
      )
      weights = {
        name: weight - self.rates[name] * gradient
        for (name, weight), gradient in zip(
          weights.items(), gradients, strict=True
        )
      }
      if step < self.inner_steps - 1:
        with torch.no_grad():  # For the running statistics alone.
          functional_call(self.network, weights, (query['input'],))
    return self._loss(weights, query)

  def step(self, tasks: Tasks) -> float:
    """One update by `support` and `query` of [tasks, shots, c, h, w]."""
    count = len(tasks['support']['input'])
    self.optimizer.zero_grad()
    total = 0.0
    for task in range(count):
      support, query = (
        {key: images[task] for key, images in tasks[part].items()}
        for part in ('support', 'query')
      )
      loss = self._task_loss(support, query) / count
      loss.backward()
      total += loss.item()
    nn.utils.clip_grad_value_(self.network.parameters(), 10.0)
    self.optimizer.step()
    return total
