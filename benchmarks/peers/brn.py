"""BRN in PyTorch."""

import torch
from torch import nn, Tensor

from benchmarks.peers.modulation import ModulatedConv2d


class BRN(nn.Module):
  """Splits an image into rain and background, in turns that share weights.

  Args:
    features: channels of the layers.
    iterations: number of turns.
    modulated: make the generators of CoI-M.
  """

  def __init__(
    self, features: int = 32, iterations: int = 8, modulated: bool = True
  ):
    super().__init__()
    self.features = features
    self.iterations = iterations

    def conv(inputs: int, outputs: int = features) -> ModulatedConv2d:
      return ModulatedConv2d(inputs, outputs, modulated=modulated)

    self.blocks = {'_r': 3, '': 5}
    for suffix, inputs in (('_r', 6), ('', 9)):
      layers = {'conv0': conv(inputs)}
      layers |= {f'conv_{gate}': conv(3 * features) for gate in 'ifgo'}
      layers['conv'] = conv(features, 3)
      for name, layer in layers.items():
        self.add_module(name + suffix, nn.ModuleDict({'conv': layer}))
      for i in range(1, self.blocks[suffix] + 1):
        block = nn.ModuleDict(
          {'conv1': conv(features), 'conv2': conv(features)}
        )
        self.add_module(f'res_conv{i}{suffix}', block)

  def forward(self, image: Tensor, z: Tensor | None = None) -> Tensor:
    """Restores images [b, 3, h, w]."""
    batch, _, height, width = image.shape
    zeros = image.new_zeros(batch, self.features, height, width)
    rain, background = image, image
    h = c = h_rain = c_rain = zeros
    for _ in range(self.iterations):
      rain, h_rain, c_rain = self._branch(
        torch.cat([image, rain], 1), h_rain, c_rain, h, z, '_r'
      )
      background, h, c = self._branch(
        torch.cat([image, background, rain], 1), h, c, h_rain, z, ''
      )
    return background

  def _branch(
    self,
    x: Tensor,
    h: Tensor,
    c: Tensor,
    other: Tensor,
    z: Tensor | None,
    suffix: str,
  ) -> tuple[Tensor, Tensor, Tensor]:
    def conv(x: Tensor, name: str, layer: str = 'conv') -> Tensor:
      return getattr(self, name + suffix)[layer](x, z)

    x = torch.relu(conv(x, 'conv0'))
    x = torch.cat([x, h, other], 1)
    i = torch.sigmoid(conv(x, 'conv_i'))
    f = torch.sigmoid(conv(x, 'conv_f'))
    g = torch.tanh(conv(x, 'conv_g'))
    o = torch.sigmoid(conv(x, 'conv_o'))
    c = f * c + i * g
    h = o * torch.tanh(c)
    x = h
    for j in range(1, self.blocks[suffix] + 1):
      name = f'res_conv{j}'
      y = torch.relu(conv(x, name, 'conv1'))
      x = torch.relu(torch.relu(conv(y, name, 'conv2')) + x)
    return conv(x, 'conv'), h, c
