"""Arrays of our side as PyTorch takes them, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor


def channels_first(images: Any) -> Tensor:
  """Images [b, h, w, c] of ours as [b, c, h, w]."""
  images = torch.from_numpy(np.array(images))
  return images.permute(0, 3, 1, 2).contiguous()


def channels_last(images: Tensor) -> np.ndarray:
  """Inverse of `channels_first`."""
  return images.detach().permute(0, 2, 3, 1).numpy()


def load(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
  """Puts weights of the same names, all of them, into a module."""
  module.load_state_dict(
    {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}
  )


def gradients(module: nn.Module) -> dict[str, np.ndarray]:
  """Of all parameters by name; zeros where there is none."""
  return {
    name: (torch.zeros_like(x) if x.grad is None else x.grad).numpy()
    for name, x in module.named_parameters()
  }
