"""A linear layer."""

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype

from common.array_types import Array
from common.layers.materialized import parameters_first


class Dense(nn.Module):
  """`flax.linen.Dense`, whose gradient holds less on CPUs.

  Attributes:
    features: of the result.
    dtype: of the computation; None keeps that of input and parameters.
    kernel_init: initialiser of the kernel [channels, features].
    bias_init: initialiser of the bias [features].
  """

  features: int
  dtype: jax.typing.DTypeLike | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [..., channels] to [..., features]."""
    shape = x.shape[-1], self.features
    kernel = self.param('kernel', self.kernel_init, shape)
    bias = self.param('bias', self.bias_init, shape[1:])
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    x, kernel, bias = parameters_first(x, kernel, bias)
    return x @ kernel + bias[(None,) * (x.ndim - 1)]
