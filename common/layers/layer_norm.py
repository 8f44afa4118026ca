"""Layer normalisation that keeps little for its gradient."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from common import distributed
from common.array_types import Array
from common.layers.materialized import parameters_first

Residuals = tuple[Array, Array, Array, Array]


def layer_norm(x: Array, scale: Array, bias: Array, *, epsilon: float) -> Array:
  """Normalises the last axis, in float32 at least.

  On CPUs, its gradient has what PyTorch's keeps: x, mean and deviation. JAX
  would keep what it computes on the way, of which x is the smallest part. For
  that, it has no derivative of forward mode there.

  Args:
    x: float array [..., channels].
    scale: float array [channels].
    bias: float array [channels].
    epsilon: added to the variance.

  Returns:
    Float array as x; of float32 for x of less.

  Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, equation 4.
  """
  if jax.default_backend() != 'cpu':
    return _normalise(x, scale, bias, epsilon)[0]
  x, scale, bias = distributed.varying_like((x, scale, bias), (x, scale, bias))
  return _closed(x, scale, bias, epsilon)


def _normalise(
  x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
  """The result, mean and 1 / deviation."""
  axes = (None,) * (x.ndim - 1)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean = x.mean(-1, keepdims=True)
  # In two passes: the fast way loses digits where the mean is large.
  variance = jnp.square(x - mean).mean(-1, keepdims=True)
  inverse = jax.lax.rsqrt(variance + epsilon)
  return (x - mean) * (inverse * scale[axes]) + bias[axes], mean, inverse


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _closed(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
  return _normalise(x, scale, bias, epsilon)[0]


def _forward(
  x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Residuals]:
  normalised, mean, inverse = _normalise(x, scale, bias, epsilon)
  return normalised, (x, scale, mean, inverse)


def _backward(
  epsilon: float, residuals: Residuals, gradient: Array
) -> tuple[Array, Array, Array]:
  del epsilon
  x, scale, mean, inverse = residuals
  axes = tuple(range(x.ndim - 1))
  # Not (x - mean) * inverse: the compiler would find it in the forward pass,
  # and keep it from there.
  standard = x * inverse - mean * inverse
  to_standard = gradient * scale[(None,) * len(axes)]
  to_x = inverse * (
    to_standard
    - to_standard.mean(-1, keepdims=True)
    - standard * (to_standard * standard).mean(-1, keepdims=True)
  )
  return (
    to_x.astype(x.dtype),
    (gradient * standard).sum(axes),
    gradient.sum(axes),
  )


_closed.defvjp(_forward, _backward)


class LayerNorm(nn.Module):
  """`flax.linen.LayerNorm` on top of `layer_norm`.

  Attributes:
    epsilon: added to the variance.
    dtype: of the result; None keeps that of input and parameters.
  """

  epsilon: float = 1e-6
  dtype: jax.typing.DTypeLike | None = None

  def __call__(self, x: Array) -> Array:
    """Normalises [..., channels] over the channels."""
    return self.deferred(x)()

  @nn.compact
  def deferred(self, x: Array) -> Partial:
    """The same, not computed yet: `Dense` takes it for x [..., channels]."""
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    dtype = self.dtype or jnp.promote_types(x.dtype, scale.dtype)

    def normalise(x: Array, scale: Array, bias: Array) -> Array:
      return layer_norm(x, scale, bias, epsilon=self.epsilon).astype(dtype)

    return Partial(normalise, *parameters_first(x, scale, bias))
