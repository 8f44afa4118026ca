"""What all methods have in common."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from common import distributed
from common.array_types import Array, Batch

Output = Mapping[str, Any]


class Method(nn.Module):
  """Base of the methods.

  Attributes:
    weight: factor of the whole loss.
    axis_name: device axis that the step is mapped over; None on one device.
    student_prefix_tokens: class tokens in front of the student's features.
    teacher_prefix_tokens: class tokens in front of the teacher's features.
    train_labels: gives the class of every training example, int [examples].
  """

  weight: float = 1.0
  axis_name: str | None = None
  student_prefix_tokens: int = 0
  teacher_prefix_tokens: int = 0
  train_labels: Callable[[], np.ndarray] | None = None

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    raise NotImplementedError

  def _axis_of(self, statistics: str) -> str | None:
    """Device axis of 'per_device' or 'global' statistics."""
    distributed.require_statistics(statistics)
    # Variables are initialised outside of any device axis.
    if statistics == 'per_device' or self.is_initializing():
      return None
    return self.axis_name
