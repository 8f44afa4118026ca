"""Batch normalisation whose running variance is the unbiased one."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from common import distributed
from common.array_types import Array


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
    normalised = (x - mean[(None,) * (x.ndim - 1)]) * multiplier[
      (None,) * (x.ndim - 1)
    ] + bias[(None,) * (x.ndim - 1)]
    return normalised.astype(self.dtype or x.dtype)

  def _batch_statistics(self, x: Array) -> tuple[Array, Array, Array]:
    """Mean, biased variance and the number of values they are taken over."""
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Variables are initialised outside of any device axis.
    axis_name = None if self.is_initializing() else self.axis_name
    mean = distributed.pmean(x.mean(axes), axis_name)
    centred = x - jnp.expand_dims(mean, axes)
    variance = distributed.pmean(jnp.square(centred).mean(axes), axis_name)
    count = distributed.psum(
      jnp.asarray(x.size / x.shape[-1], x.dtype), axis_name
    )
    return mean, variance, count

  def _blend(self, old: Array, new: Array) -> Array:
    return self.momentum * old + (1 - self.momentum) * new
