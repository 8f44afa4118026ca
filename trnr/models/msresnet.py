"""MSResNet, and DNNet, which is MSResNet without its multi-scale blocks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.array_types import Array, at_least_float32
from common.layers import materialized
from trnr.models.blocks import (
  ConcatenatingBlock,
  Conv,
  leaky_relu,
  MultiScaleBlock,
  ResidualBlock,
  Unit,
)
from trnr.models.network import Levels, RestorationNetwork

_BLOCKS = {'residual': ResidualBlock, 'concatenating': ConcatenatingBlock}


class Stage(nn.Module):
  """A multi-scale block and a residual block beside one shortcut.

  Attributes: as of `MSResNet`.
  """

  features: int
  attention: bool = True
  multi_scale: bool = True
  block: str = 'residual'
  dtype: jax.typing.DTypeLike | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [b, h, w, c >= features] to [b, h, w, features]."""
    shortcut = x[..., : self.features]
    if self.multi_scale:
      x = MultiScaleBlock(
        self.features,
        self.attention,
        self.dtype,
        self.axis_name,
        name='multi_scale',
      )(x, train)
    block = _BLOCKS[self.block](
      self.features, self.attention, self.dtype, self.axis_name, name='residual'
    )
    return materialized(leaky_relu(shortcut + block(x, train)))


class MSResNet(RestorationNetwork):
  """The multi-scale residual network for rain, or noise of known strength.

  At full resolution throughout. It predicts the degradation: its output is
  the image less that. 942,736 parameters as it stands, 0.936 M multiply-adds
  per pixel.

  Attributes:
    stages: how many.
    attention: gate the channels of each block.
    multi_scale: begin each stage with a multi-scale block.
    block: 'residual' or 'concatenating', the second block of each stage.
    aggregate_input: show the image to every stage again.
    noise_map: take the strength of the noise as one more channel; then `sigma`
      must be given.

  Source: Ran et al., "TRNR: Task-Driven Image Rain and Noise Removal With a
  Few Images Based on Patch Analysis", IEEE TIP 2023, and its program.
  """

  stages: int = 4
  attention: bool = True
  multi_scale: bool = True
  block: str = 'residual'
  aggregate_input: bool = False
  noise_map: bool = False

  @property
  def needs_sigma(self) -> bool:
    """Whether the strength of the noise must be given."""
    return self.noise_map

  @nn.compact
  def __call__(
    self, image: Array, *, train: bool = False, sigma: Array | None = None
  ) -> Array:
    """Restores images; see `RestorationNetwork`."""
    self._check_image(image)
    if self.block not in _BLOCKS:
      raise ValueError(f'block {self.block!r} must be one of {[*_BLOCKS]}')
    image = at_least_float32(image)
    observed = self._with_noise_map(image, sigma)

    x = Conv(self.features, dtype=self.dtype, name='head')(observed)
    x = leaky_relu(x)
    stage = self._rematerialised(Stage)
    for number in range(1, self.stages + 1):
      if self.aggregate_input:
        x = jnp.concatenate([x, observed.astype(x.dtype)], axis=-1)
      x = stage(
        self.features,
        attention=self.attention,
        multi_scale=self.multi_scale,
        block=self.block,
        dtype=self.dtype,
        axis_name=self.axis_name,
        name=f'stage{number}',
      )(x, train)
    x = Unit(
      self.features,
      leaky_relu,
      attention=self.attention,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name='transition',
    )(x, train)
    degradation = Conv(self.channels, dtype=self.dtype, name='tail')(x)
    return image - degradation.astype(image.dtype)

  def _with_noise_map(self, image: Array, sigma: Array | None) -> Array:
    if self.noise_map != (sigma is not None):
      needs = 'needs sigma' if self.noise_map else 'takes no sigma'
      raise ValueError(f'this network {needs} (noise_map={self.noise_map})')
    if sigma is None:
      return image
    if sigma.shape != image.shape[:1]:
      raise ValueError(
        f'sigma {list(sigma.shape)} must be one number for each image of '
        f'{list(image.shape)}'
      )
    plane = jnp.broadcast_to(
      sigma.astype(image.dtype)[:, None, None, None], (*image.shape[:3], 1)
    )
    return jnp.concatenate([image, plane], axis=-1)

  def levels(self) -> Levels:
    """Module paths by depth; see `RestorationNetwork`."""
    gate = ['attention'] if self.attention else []
    levels: Levels = [('head',)]
    for number in range(1, self.stages + 1):
      stage = f'stage{number}'
      if self.multi_scale:
        levels += [
          tuple(f'{stage}/multi_scale/{p}_dilation{d}' for d in (1, 2, 3))
          for p in ('first', 'second')
        ]
        levels += [(f'{stage}/multi_scale/{m}',) for m in ('norm', *gate)]
      block = f'{stage}/residual'
      if self.block == 'residual':
        for unit in range(1, 5):
          levels += [(f'{block}/unit{unit}/{m}',) for m in ('conv', 'norm')]
          levels.append((f'{block}/unit{unit}_activation',))
      else:
        for branch in range(1, 3):
          modules = ('conv', 'norm', *gate)
          levels += [(f'{block}/branch{branch}/{m}',) for m in modules]
      levels += [(f'{block}/last/{m}',) for m in ('conv', 'norm', *gate)]
    levels += [(f'transition/{m}',) for m in ('conv', 'norm', *gate)]
    return [*levels, ('tail',)]


class DNNet(MSResNet):
  """The plain residual network for noise: no multi-scale blocks.

  1,152,088 parameters for gray images.

  Source: the first version of the paper, and of its program.
  """

  features: int = 64
  stages: int = 6
  multi_scale: bool = False
  noise_map: bool = True
