"""A linear layer."""

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype
from jax.tree_util import Partial

from common.array_types import Array
from common.layers import initializers
from common.layers.materialized import parameters_first, recomputed


def shape_of(x: Array | Partial) -> tuple[int, ...]:
  """Shape of an array, or of what a `jax.tree_util.Partial` returns."""
  return (jax.eval_shape(x) if isinstance(x, Partial) else x).shape


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
  kernel_init: nn.initializers.Initializer = initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Array | Partial) -> Array:
    """Maps [..., channels] to [..., features].

    Args:
      x: float array [..., channels], or a `jax.tree_util.Partial` that needs
        no more arguments and returns one. On CPUs, the gradient keeps what it
        is given, not what it returns; see `recomputed` for what it may be.

    Returns:
      Float array [..., features].
    """
    shape = shape_of(x)[-1], self.features
    kernel = self.param('kernel', self.kernel_init, shape)
    bias = self.param('bias', self.bias_init, shape[1:])
    if not isinstance(x, Partial):
      return self._linear(x, kernel, bias)
    arrays, structure = jax.tree.flatten(x)

    def linear(*arrays: Array) -> Array:
      *arrays_of_x, kernel, bias = arrays
      x = jax.tree.unflatten(structure, arrays_of_x)
      return self._linear(x(), kernel, bias)

    return recomputed(linear, *arrays, kernel, bias)

  def _linear(self, x: Array, kernel: Array, bias: Array) -> Array:
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    x, kernel, bias = parameters_first(x, kernel, bias)
    return x @ kernel + bias[(None,) * (x.ndim - 1)]
