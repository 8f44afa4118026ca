"""The linear map into a common width that CC and CRD train."""

import flax.linen as nn
import jax

from common import layers
from common.array_types import Array


class LinearEmbedding(nn.Module):
  """Linear map of an embedding, one for the student and one for the teacher.

  Attributes:
    features: common width.
    dtype: of the computation; None keeps that of the input.

  Source: the published programs of CC and CRD.
  """

  features: int = 128
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, embedding: Array) -> Array:
    """Maps [batch, dim] to [batch, features]."""
    return nn.Dense(
      self.features,
      dtype=self.dtype,
      kernel_init=layers.fan_in_uniform(),
      bias_init=layers.uniform_within(embedding.shape[-1] ** -0.5),
      name='linear',
    )(embedding)
