"""Batch normalisation whose running variance is the unbiased one."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from common import distributed
from common.array_types import Array
from common.layers.materialized import parameters_first


class BatchNorm(nn.Module):
  """Normalises the last axis over all others.

  Differs from `flax.linen.BatchNorm` in one thing: the running variance takes
  the batch variance times n / (n - 1), as in PyTorch, so that published
  weights and published behaviour in evaluation carry over. Statistics are
  computed and kept in float32.

  Attributes:
    momentum: weight of the old running statistics, in [0, 1].
    epsilon: added to the variance.
    axis_name: device axis to take batch statistics over; None means this
      device's batch.
    dtype: of the result; None keeps that of the input.
    scale_init: initialiser of the scale.

  Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 1.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  axis_name: str | None = None
  dtype: jax.typing.DTypeLike | None = None
  scale_init: nn.initializers.Initializer = nn.initializers.ones

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """Normalises [..., channels] by batch (train) or running statistics."""
    shape = x.shape[-1:]
    scale = self.param('scale', self.scale_init, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    x, scale, bias = parameters_first(x, scale, bias)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, shape)
    running_variance = self.variable('batch_stats', 'var', jnp.ones, shape)
    if train:
      mean, variance, count = self._batch_statistics(x)
      if not self.is_initializing():
        unbiased = variance * count / jnp.maximum(count - 1, 1)
        running_mean.value = self._blend(running_mean.value, mean)
        running_variance.value = self._blend(running_variance.value, unbiased)
    else:
      mean, variance = running_mean.value, running_variance.value
    multiplier = scale * jax.lax.rsqrt(variance + self.epsilon)
    normalised = _of_few_arrays(_affine, _affine_backward)(
      x, mean, multiplier, bias
    )
    return normalised.astype(self.dtype or x.dtype)

  def _batch_statistics(self, x: Array) -> tuple[Array, Array, Array]:
    """Mean, biased variance and the number of values they are taken over."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Variables are initialised outside of any device axis.
    axis_name = None if self.is_initializing() else self.axis_name
    mean = distributed.pmean(x.mean(_axes(x)), axis_name)
    squares = _of_few_arrays(_mean_square, _mean_square_backward)(x, mean)
    variance = distributed.pmean(squares, axis_name)
    count = distributed.psum(
      jnp.asarray(x.size / x.shape[-1], x.dtype), axis_name
    )
    return mean, variance, count

  def _blend(self, old: Array, new: Array) -> Array:
    return self.momentum * old + (1 - self.momentum) * new


def _affine(x: Array, mean: Array, multiplier: Array, bias: Array) -> Array:
  return (x - _wide(mean, x)) * _wide(multiplier, x) + _wide(bias, x)


def _affine_backward(
  inputs: tuple[Array, ...], gradient: Array
) -> tuple[Array, ...]:
  x, mean, multiplier, _ = inputs
  to_x = gradient * _wide(multiplier, x)
  to_multiplier = gradient * x - gradient * _wide(mean, x)
  return (
    to_x.astype(x.dtype),
    -to_x.sum(_axes(x)),
    to_multiplier.sum(_axes(x)),
    gradient.sum(_axes(x)),
  )


def _mean_square(x: Array, mean: Array) -> Array:
  return jnp.square(x - _wide(mean, x)).mean(_axes(x))


def _mean_square_backward(
  inputs: tuple[Array, ...], gradient: Array
) -> tuple[Array, ...]:
  x, mean = inputs
  factor = 2 * gradient * (gradient.size / x.size)
  to_x = x * _wide(factor, x) - _wide(mean * factor, x)
  return to_x, -to_x.sum(_axes(x))


def _of_few_arrays(
  function: Callable[..., Array], backward: Callable[..., tuple[Array, ...]]
) -> Callable[..., Array]:
  """The same, with a gradient of nothing but its arguments; on CPUs.

  What the derivative needs besides, x - mean, is written in another way there:
  XLA's CPU backend would find it in the forward pass, and keep it from there.
  """
  if jax.default_backend() != 'cpu':
    return function
  closed = jax.custom_vjp(function)
  closed.defvjp(lambda *inputs: (function(*inputs), inputs), backward)
  return lambda *inputs: closed(*distributed.varying_like(inputs, inputs))


def _wide(x: Array, like: Array) -> Array:
  return x[(None,) * (like.ndim - 1)]


def _axes(x: Array) -> tuple[int, ...]:
  return tuple(range(x.ndim - 1))
