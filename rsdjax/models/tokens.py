"""What the networks on patch tokens have in common."""

import flax.linen as nn
import jax

from common.array_types import Array
from common.layers import fan_in_uniform, uniform_within


class PatchEmbedding(nn.Module):
  """Cuts images into square patches and maps each to a token.

  Attributes:
    features: width of a token.
    patch_size: side of a patch in pixels.
    dtype: of the computation.
    kernel_init: initialiser of the kernel; None is uniform within
      +-1 / sqrt(fan-in), for the bias too.
    bias_init: initialiser of the bias; None as above.
  """

  features: int
  patch_size: int
  dtype: jax.typing.DTypeLike | None = None
  kernel_init: nn.initializers.Initializer | None = None
  bias_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, images: Array) -> Array:
    """Maps [b, h, w, c] to [b, h / patch_size, w / patch_size, features]."""
    fan_in = self.patch_size**2 * images.shape[-1]
    return nn.Conv(
      self.features,
      (self.patch_size, self.patch_size),
      self.patch_size,
      padding='VALID',
      dtype=self.dtype,
      kernel_init=self.kernel_init or fan_in_uniform(),
      bias_init=self.bias_init or uniform_within(fan_in**-0.5),
      name='conv',
    )(images)


def flatten_grid(x: Array) -> Array:
  """Maps [b, h, w, c] to tokens [b, h * w, c], row by row."""
  return x.reshape(x.shape[0], -1, x.shape[-1])


def stage_ends(depth: int) -> list[int]:
  """Blocks after which a plain stack of `depth` blocks has its four stages.

  Of 12 blocks these are 1, 3, 9 and 11 (from 0), where Swin-T has them.
  """
  return [-(-depth * end // 6) - 1 for end in (1, 2, 5, 6)]
