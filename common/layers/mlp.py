"""The two-layer perceptron of transformers and mixers."""

import functools

import flax.linen as nn
import jax
from jax.tree_util import Partial

from common.array_types import Array
from common.layers import initializers
from common.layers.dense import Dense, shape_of
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
  kernel_init: nn.initializers.Initializer = initializers.normal(0.02)
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Array | Partial) -> Array:
    """Maps [..., features], as `Dense` takes it, to [..., features]."""
    linear = functools.partial(
      Dense,
      dtype=self.dtype,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
    )
    hidden = linear(self.hidden_features, name='expand')(x)
    return linear(shape_of(x)[-1], name='project')(Partial(gelu, hidden))
