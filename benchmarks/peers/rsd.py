"""RSD's loss, its decoupler and its training step in PyTorch."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn


def rsd_loss(
  student: torch.Tensor, teacher: torch.Tensor, *, kappa: float = 0.01
) -> torch.Tensor:
  """Loss of two embeddings [batch, dim], by their dim x dim correlation."""

  def standardise(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-5)

  correlation = standardise(teacher).T @ standardise(student) / len(student)
  diagonal = correlation.diagonal()
  off_diagonal = correlation.square().sum() - diagonal.square().sum()
  return (diagonal - 1).square().sum() + kappa * off_diagonal


def decoupler(inputs: int, features: int, expansion: int) -> nn.Sequential:
  """The architecture-agnostic decoupler (AAD)."""
  return nn.Sequential(
    nn.Linear(inputs, expansion * inputs, bias=False),
    nn.BatchNorm1d(expansion * inputs),
    nn.GELU(),
    nn.Linear(expansion * inputs, features, bias=False),
  )


def parameter_groups(
  named: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict]:
  """Decays what has two or more axes and is no bias."""
  groups = {True: [], False: []}
  for name, parameter in named:
    decayed = parameter.ndim >= 2 and not name.endswith('bias')
    groups[decayed].append(parameter)
  return [
    {'params': groups[True], 'weight_decay': weight_decay},
    {'params': groups[False], 'weight_decay': 0.0},
  ]


class TrainingStep:
  """Updates student and decoupler by a batch.

  Attributes:
    trained: `student` and `decoupler`.
    optimizer: of both.
  """

  def __init__(
    self,
    student: nn.Module,
    teacher: nn.Module,
    decoupler: nn.Module,
    *,
    optimizer: str,
    learning_rate: float,
    weight_decay: float,
    clip_norm: float | None,
    mean: Sequence[float],
    std: Sequence[float],
    weight: float,
    kappa: float,
    label_smoothing: float,
    compiled: bool = False,
  ) -> None:
    """Takes the fields of a config; `compiled` uses `torch.compile`."""
    self.trained = nn.ModuleDict({'student': student, 'decoupler': decoupler})
    self.trained.train()
    self._teacher = teacher.eval().requires_grad_(False)
    groups = parameter_groups(self.trained.named_parameters(), weight_decay)
    if optimizer == 'sgd':
      self.optimizer = torch.optim.SGD(
        groups, learning_rate, momentum=0.9, nesterov=True
      )
    else:
      self.optimizer = torch.optim.AdamW(groups, learning_rate)
    self._clip_norm = clip_norm
    self._mean, self._std = (
      torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std)
    )
    self._weight, self._kappa = weight, kappa
    self._label_smoothing = label_smoothing
    if compiled:
      self._losses = torch.compile(self._losses)

  def __call__(
    self, images: torch.Tensor, labels: torch.Tensor
  ) -> torch.Tensor:
    """The loss of uint8 images [b, 3, h, w], before the update."""
    loss = self._losses(images, labels)
    self.optimizer.zero_grad()
    loss.backward()
    if self._clip_norm:
      nn.utils.clip_grad_norm_(self.trained.parameters(), self._clip_norm)
    self.optimizer.step()
    return loss.detach()

  def _losses(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    images = (images / 255.0 - self._mean) / self._std
    with torch.no_grad():
      _, target = self._teacher(images)
    logits, embedding = self.trained['student'](images)
    # Mixed labels are smoothed already.
    smoothing = 0.0 if labels.ndim == 2 else self._label_smoothing
    classification = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    distillation = rsd_loss(
      self.trained['decoupler'](embedding), target, kappa=self._kappa
    )
    return classification + self._weight * distillation
