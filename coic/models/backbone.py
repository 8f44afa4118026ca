"""What the deraining networks have in common."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from coic.masks import MaskLayout
from coic.modulation import EMBEDDING_FEATURES
from common.array_types import (
  Array,
  require_floating,
  require_rank,
  require_same_batch,
)

Outputs = dict[str, Any]


class Backbone(nn.Module):
  """Base of the deraining networks: their common fields and their call.

  Parameters are float32, and so is the restored image whatever the `dtype`.

  Attributes:
    modulated: make the generators of CoI-M; without them z must be None.
    embedding_features: width of z.
    mask_layout: see `coic.masks.kernel_masks`.
    unused_generators: make the generators of 1x1 layers too, which are never
      used, as published weights have them.
    dtype: of the computation, bfloat16 say; None means float32.
    remat: compute the repeated parts again in the backward pass instead of
      keeping what is inside them, which saves memory.
    axis_name: device axis to take BatchNorm statistics over; None means this
      device's batch.
  """

  modulated: bool = True
  embedding_features: int = EMBEDDING_FEATURES
  mask_layout: MaskLayout = 'published'
  unused_generators: bool = False
  dtype: jax.typing.DTypeLike | None = None
  remat: bool = False
  axis_name: str | None = None

  @property
  def side_multiple(self) -> int:
    """What the sides of the images must be divisible by, in pixels."""
    return 1

  @property
  def fixed_size(self) -> int | None:
    """Side of the images, if the network takes only one, in pixels."""
    return None

  def __call__(
    self,
    image: Array,
    z: Array | None = None,
    *,
    train: bool = False,
    all_outputs: bool = False,
  ) -> Array | Outputs:
    """Restores images.

    Args:
      image: rainy RGB in [0, 1], float [b, h, w, 3].
      z: unit embeddings of the images, float [b, embedding_features]; None
        runs the network without modulation.
      train: use batch statistics (apply with `mutable=['batch_stats']`) and
        drop path, in networks that have them.
      all_outputs: give what the losses need as well.

    Returns:
      The restored image, RGB around [0, 1] and not clipped, float32
      [b, h, w, 3]; or with `all_outputs` a dict that has it as 'restored'.

    Raises:
      ValueError: shapes or dtypes do not fit the network.
    """
    raise NotImplementedError

  def _check(self, image: Array, z: Array | None) -> None:
    """Raises ValueError unless the network takes the image and z."""
    require_floating(image=image)
    require_rank(4, image=image)
    if image.shape[-1] != 3:
      raise ValueError(f'image {list(image.shape)} must be [b, h, w, 3]')
    multiple = self.side_multiple
    if image.shape[1] % multiple or image.shape[2] % multiple:
      raise ValueError(
        f'the sides of image {list(image.shape)} must be divisible by '
        f'{multiple}'
      )
    if z is None:
      return
    require_floating(z=z)
    require_same_batch(image=image, z=z)
    if not self.modulated:
      raise ValueError('z was given to a network made with modulated=False')
    if z.shape[1:] != (self.embedding_features,):
      raise ValueError(
        f'z {list(z.shape)} must be [b, {self.embedding_features}]'
      )

  def _compute_dtype(self, image: Array) -> jax.typing.DTypeLike:
    return self.dtype or jnp.promote_types(image.dtype, jnp.float32)

  def _layer_options(self) -> dict[str, Any]:
    """What the modulated layers of the network take from it."""
    return {
      'embedding_features': self.embedding_features if self.modulated else None,
      'mask_layout': self.mask_layout,
      'unused_generator': self.unused_generators,
      'dtype': self.dtype,
    }
