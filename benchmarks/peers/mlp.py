"""The two-layer perceptron of the transformers and of ConvNeXt."""

import torch
from torch import nn


class Mlp(nn.Module):
  """Linear, exact GELU, linear back.

  Args:
    features: width of input and output.
    ratio: width between the two, as a multiple of that.
  """

  def __init__(self, features: int, ratio: int = 4) -> None:
    super().__init__()
    self.fc1 = nn.Linear(features, ratio * features)
    self.act = nn.GELU()
    self.fc2 = nn.Linear(ratio * features, features)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [..., features] to [..., features]."""
    return self.fc2(self.act(self.fc1(x)))
