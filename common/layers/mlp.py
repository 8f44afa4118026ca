"""The two-layer perceptron of transformers and mixers."""

import flax.linen as nn
import jax

from common.array_types import Array
from common.layers.dense import Dense
from common.layers.gelu import gelu


class Mlp(nn.Module):
  """Linear, exact GELU, linear back to the input's width.

  Attributes:
    hidden_features: width between the two.
    dtype: of the computation; None keeps that of the input.
    kernel_init: initialiser of both kernels.
    bias_init: initialiser of both biases.
  """

  hidden_features: int
  dtype: jax.typing.DTypeLike | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [..., features] to [..., features]."""

    def linear(features: int, name: str) -> Dense:
      return Dense(
        features,
        dtype=self.dtype,
        kernel_init=self.kernel_init,
        bias_init=self.bias_init,
        name=name,
      )

    hidden = linear(self.hidden_features, 'expand')(x)
    hidden = gelu(hidden)
    return linear(x.shape[-1], 'project')(hidden)
