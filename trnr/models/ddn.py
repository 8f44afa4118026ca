"""DDN: a residual network on the details of an image."""

import flax.linen as nn

from common.array_types import Array, at_least_float32
from trnr.guided_filter import guided_filter
from trnr.models.blocks import Unit
from trnr.models.network import Levels, RestorationNetwork

_PAIRS = 12


class DDN(RestorationNetwork):
  """The detail network, as the TRNR program has it: 56,966 parameters.

  Images need at least 31 pixels a side.

  Source: Fu et al., "Removing Rain From Single Images via a Deep Detail
  Network", CVPR 2017; the comparison of Ran et al., IEEE TIP 2023.
  """

  features: int = 16

  @nn.compact
  def __call__(
    self, image: Array, *, train: bool = False, sigma: Array | None = None
  ) -> Array:
    """Restores images; see `RestorationNetwork`."""
    self._check_image(image)
    if sigma is not None:
      raise ValueError('this network takes no sigma')
    image = at_least_float32(image)
    detail = image - guided_filter(image, image, radius=15, epsilon=1e-8)
    unit = self._rematerialised(Unit)

    def apply(number: int, x: Array) -> Array:
      return unit(
        self.features,
        nn.relu,
        dtype=self.dtype,
        axis_name=self.axis_name,
        name=f'unit{number}',
      )(x, train)

    x = apply(1, detail)
    for pair in range(_PAIRS):
      x = x + apply(2 * pair + 3, apply(2 * pair + 2, x))
    residual = unit(
      self.channels,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name=f'unit{2 * _PAIRS + 2}',
    )(x, train)
    return image + residual.astype(image.dtype)

  def levels(self) -> Levels:
    """Module paths by depth; see `RestorationNetwork`."""
    return [
      (f'unit{number}/{module}',)
      for number in range(1, 2 * _PAIRS + 3)
      for module in ('conv', 'norm')
    ]
