"""What the classification networks have in common."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax

from common.array_types import Array, require_floating, require_rank

Outputs = dict[str, Any]
Block = TypeVar('Block', bound=Callable[..., nn.Module])


class Network(nn.Module):
  """Base of the classification networks: their common fields and their call.

  Parameters are float32, and so are the embedding and the logits whatever the
  `dtype`. Drop path draws from the stream 'dropout'; BatchNorm keeps its
  running statistics in the collection 'batch_stats'.

  Attributes:
    num_classes: number of logits.
    drop_path_rate: largest probability of dropping a residual branch for an
      example, in [0, 1).
    axis_name: device axis to take BatchNorm statistics over; None means this
      device's batch. Networks without BatchNorm have no use for it.
    dtype: of the computation up to the embedding, bfloat16 say; None means
      float32.
    remat: compute the blocks again in the backward pass instead of keeping
      what is inside them, which saves memory.
    prefix_tokens: number of tokens in front of the patches in `features`.
  """

  num_classes: int = 1000
  drop_path_rate: float = 0.0
  axis_name: str | None = None
  dtype: jax.typing.DTypeLike | None = None
  remat: bool = False

  prefix_tokens: ClassVar[int] = 0

  def __call__(
    self, images: Array, *, train: bool = False, features: bool = False
  ) -> Array | Outputs:
    """Classifies images.

    Args:
      images: normalised RGB, float [batch, height, width, 3].
      train: use batch statistics (apply with `mutable=['batch_stats']`) and
        drop path.
      features: give what distillation needs instead of the logits alone.

    Returns:
      Logits, float [batch, num_classes]; with `features` a dict of `logits`,
      `embedding` (the vector that enters the classifier, float [batch, dim])
      and `features` (outputs of the four stages, maps [batch, height, width,
      channels] or tokens [batch, tokens, dim] with prefix tokens first).

    Raises:
      ValueError: images are not a floating [batch, height, width, 3] of a size
        that fits the network.
    """
    raise NotImplementedError

  def check_image_size(self, height: int, width: int) -> None:
    """Raises ValueError unless the network takes images of this size."""

  def _check_images(self, images: Array) -> None:
    require_rank(4, images=images)
    require_floating(images=images)
    _, height, width, channels = images.shape
    if channels != 3:
      raise ValueError(f'images {images.shape} must have 3 channels, last')
    self.check_image_size(height, width)

  def _rematerialised(self, block: Block) -> Block:
    """The block, called as `block(...)(x, train)`, under `self.remat`."""
    return nn.remat(block, static_argnums=(2,)) if self.remat else block


def require_multiple(height: int, width: int, *, of: int) -> None:
  """Raises ValueError unless both sides are positive multiples of `of`."""
  if min(height, width) < 1 or height % of or width % of:
    raise ValueError(
      f'image size {height}x{width} must be a positive multiple of {of}'
    )


def outputs(
  logits: Array, embedding: Array, stages: Sequence[Array], *, features: bool
) -> Array | Outputs:
  """What a network gives: the logits, or a dict of all three."""
  if not features:
    return logits
  return {
    'logits': logits,
    'embedding': embedding,
    'features': tuple(stages),
  }


def linear_ramp(rate: float, num_blocks: int) -> list[float]:
  """Drop path rates from 0 at the first block to `rate` at the last."""
  return [rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)]
