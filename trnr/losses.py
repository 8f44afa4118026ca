"""The loss of the inner and the outer loop."""

import functools

import jax

from common import metrics
from common.array_types import (
  Array,
  ArrayLike,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_shape,
)


@functools.partial(jax.jit, inline=True)
def restoration_loss(
  prediction: Array, target: Array, *, ssim_weight: ArrayLike = 5.0
) -> Array:
  """Mean absolute error plus a multiple of 1 - SSIM, for each image.

  SSIM is that of `common.metrics.ssim`, the one that images are scored by. The
  derivative of the absolute error is 0 where prediction and target are equal.

  Args:
    prediction: restored images, float [b, h, w, c], h and w at least 11.
    target: clean images in [0, 1], float [b, h, w, c].
    ssim_weight: of the second term, >= 0; without it the loss is L1.

  Returns:
    Float32 or better [b].

  Raises:
    ValueError: shapes differ or are wrong, or a dtype is.

  Example:
    >>> import jax.numpy as jnp
    >>> from trnr.losses import restoration_loss
    >>> target = jnp.full((1, 16, 16, 3), 0.5)
    >>> loss = restoration_loss(target + 0.1, target)
    >>> [round(float(x), 3) for x in loss]
    [0.182]

  Source: Ran et al., IEEE TIP 2023, and its program.
  """
  require_rank(4, prediction=prediction, target=target)
  require_floating(prediction=prediction, target=target)
  require_same_shape(prediction=prediction, target=target)
  prediction, target = at_least_float32(prediction), at_least_float32(target)
  error = prediction - target
  # Like abs(error), whose derivative at 0 is 1 in JAX and 0 in the reference.
  absolute = error * jax.lax.stop_gradient(jax.numpy.sign(error))
  dissimilarity = 1 - metrics.ssim(prediction, target)
  return absolute.mean((1, 2, 3)) + ssim_weight * dissimilarity
