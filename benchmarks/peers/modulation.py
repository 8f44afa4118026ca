"""CoI-M in PyTorch: convolutions with one kernel per image, as grouped ones."""

import torch
from torch import nn, Tensor
from torch.nn import functional as F

EMBEDDING_FEATURES = 128


class ModulatedConv2d(nn.Module):
  """A convolution whose kernel a generator masks, for each image.

  Args:
    inputs: number of channels.
    outputs: number of channels.
    size: side of the kernel; of 1, the layer is an ordinary one.
    groups: of channels that do not mix.
    dilation: distance between the positions of the window.
    bias: add one.
    modulated: make a generator.
  """

  def __init__(
    self,
    inputs: int,
    outputs: int,
    size: int = 3,
    *,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = True,
    modulated: bool = True,
  ):
    super().__init__()
    conv = nn.Conv2d(
      inputs,
      outputs,
      size,
      padding=dilation * (size - 1) // 2,
      dilation=dilation,
      groups=groups,
      bias=bias,
    )
    self.base_conv = nn.ModuleDict({'conv': conv})
    if modulated and size > 1:
      hidden = outputs if groups == 1 else max(outputs // 16, 1)
      self.g2pa_wgen = nn.Sequential(
        nn.Linear(EMBEDDING_FEATURES + inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 16),
        nn.ReLU(),
        nn.Linear(16, outputs + inputs // groups + size**2),
      )

  def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
    """Maps [b, c, h, w]; an ordinary convolution without z [b, 128]."""
    conv = self.base_conv['conv']
    if z is None or conv.kernel_size == (1, 1):
      return conv(x)
    batch, _, height, width = x.shape
    outputs, rows, size, _ = conv.weight.shape
    context = torch.cat([z, x.mean((2, 3))], dim=1)
    columns_logits, rows_logits, window = self.g2pa_wgen(context).split(
      [outputs, rows, size**2], dim=1
    )
    gate = torch.sigmoid(rows_logits[:, :, None] + columns_logits[:, None])
    masks = (gate[..., None] * window[:, None, None]).softmax(dim=-1)
    # Read as it lies, like the published program does.
    masks = size**2 * masks.view(batch, outputs, rows, size, size)
    x = F.conv2d(
      x.reshape(1, -1, height, width),
      (conv.weight * masks).flatten(0, 1),
      None if conv.bias is None else conv.bias.repeat(batch),
      padding=conv.padding,
      dilation=conv.dilation,
      groups=batch * conv.groups,
    )
    return x.view(batch, outputs, height, width)
