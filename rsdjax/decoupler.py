"""The architecture-agnostic decoupler (AAD)."""

import flax.linen as nn
import jax

from common.array_types import Array, require_floating, require_rank
from common.layers import BatchNorm, gelu, initializers


class Decoupler(nn.Module):
  """Maps a student embedding into the teacher's width, for training only.

  Linear, BatchNorm, exact GELU, linear; no biases beside BatchNorm's. It keeps
  what RSD asks for away from the student's own embedding, is trained with the
  student's optimiser and is dropped afterwards.

  Attributes:
    features: width of the teacher embedding.
    expansion: hidden width as a multiple of the student width (gamma).
    axis_name: device axis for the BatchNorm statistics; None means this
      device's batch, as in the published program.
    dtype: of the computation; None keeps that of the input.

  Source: Zhang et al., ICCV 2025, section 3 (the AAD module).
  """

  features: int
  expansion: int = 2
  axis_name: str | None = None
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, embedding: Array, *, train: bool) -> Array:
    """Decouples an embedding.

    Args:
      embedding: student embedding, float [batch, dim].
      train: normalise by this batch and update the running statistics.

    Returns:
      Float [batch, features].

    Raises:
      ValueError: embedding is not a floating [batch, dim].
    """
    require_rank(2, embedding=embedding)
    require_floating(embedding=embedding)

    def linear(features: int, name: str) -> nn.Dense:
      # The published truncation lies at 100 deviations: a plain normal.
      return nn.Dense(
        features,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=initializers.normal(0.02),
        name=name,
      )

    x = linear(self.expansion * embedding.shape[-1], 'expand')(embedding)
    x = BatchNorm(axis_name=self.axis_name, name='norm')(x, train=train)
    x = gelu(x)
    return linear(self.features, 'project')(x)
