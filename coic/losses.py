"""Losses: of the encoder, and of each of the networks.

Restored images come from the network as they are, not clipped.
"""

import functools

import jax
import jax.numpy as jnp

from coic.unit_vectors import unit_vectors
from common import image_ops, metrics
from common.array_types import (
  Array,
  ArrayLike,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_batch,
  require_same_shape,
)

_CHARBONNIER_EPSILON = 1e-6
_LAPLACIAN_TAPS = (0.05, 0.25, 0.4, 0.25, 0.05)

_jit = functools.partial(jax.jit, inline=True)


@_jit
def contrastive_logits(
  query: Array,
  positive: Array,
  negatives: Array,
  *,
  temperature: ArrayLike = 1.0,
) -> Array:
  """Similarities of feature maps: mean cosines of corresponding places.

  Args:
    query: feature maps, float [b, h, w, c], which need not be unit vectors.
    positive: the maps that each should resemble, float [b, h, w, c].
    negatives: those that it should not, float [b, n, h, w, c].
    temperature: divides the similarities, > 0.

  Returns:
    Float32 or better [b, 1 + n], the positive first.

  Raises:
    ValueError: shapes do not fit, or a dtype is not floating.

  Source: CoIC, the published program.
  """
  require_floating(query=query, positive=positive, negatives=negatives)
  require_rank(4, query=query, positive=positive)
  require_rank(5, negatives=negatives)
  require_same_shape(query=query, positive=positive)
  require_same_batch(query=query, negatives=negatives)
  if negatives.shape[2:] != query.shape[1:]:
    raise ValueError(
      f'negatives {list(negatives.shape)} must be maps of the shape of query '
      f'{list(query.shape)}'
    )
  keys = jnp.concatenate([positive[:, None], negatives], axis=1)
  cosines = (unit_vectors(query)[:, None] * unit_vectors(keys)).sum(-1)
  return cosines.mean((2, 3)) / temperature


@_jit
def contrastive_loss(
  query: Array,
  positive: Array,
  negatives: Array,
  *,
  temperature: ArrayLike = 1.0,
) -> Array:
  """Cross entropy of telling a picture's positive from its own negatives.

  -log(exp(s_0) / sum_j exp(s_j)) with the similarities s of
  `contrastive_logits`, positive first. Other pictures of the batch are no
  negatives. At temperature 1 and with five negatives, it lies between 0.517
  and 3.636, and is log 6 where all are alike.

  Args:
    query: feature maps, float [b, h, w, c], which need not be unit vectors.
    positive: the maps that each should resemble, float [b, h, w, c].
    negatives: those that it should not, float [b, n, h, w, c].
    temperature: divides the similarities, > 0.

  Returns:
    Float32 or better [b]. Gradients flow into all three.

  Raises:
    ValueError: shapes do not fit, or a dtype is not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> from coic.losses import contrastive_loss
    >>> maps = jnp.ones((2, 4, 4, 8))
    >>> negatives = jnp.stack([maps] * 5, axis=1)
    >>> loss = contrastive_loss(maps, maps, negatives)
    >>> [round(float(x), 3) for x in loss]
    [1.792, 1.792]
    >>> loss = contrastive_loss(maps, maps, -negatives)
    >>> [round(float(x), 3) for x in loss]
    [0.517, 0.517]

  Source: Ran et al., "Harnessing Joint Rain-/Detail-aware Representations to
  Eliminate Intricate Rains", ICLR 2024, and its program.
  """
  logits = contrastive_logits(
    query, positive, negatives, temperature=temperature
  )
  return jax.nn.logsumexp(logits, axis=1) - logits[:, 0]


@_jit
def ssim_loss(restored: Array, target: Array) -> Array:
  """Minus SSIM, with zeros around the images: the loss of BRN and IDT.

  Args:
    restored: restored images, float [b, h, w, c].
    target: clean images in [0, 1], float [b, h, w, c].

  Returns:
    Float32 or better [b], -1 for equal images.

  Raises:
    ValueError: shapes differ or are wrong, or a dtype is not floating.

  Source: BRN's and CoIC's published programs.
  """
  return -metrics.ssim(restored, target, padding='same')


@_jit
def l1_loss(restored: Array, target: Array) -> Array:
  """Mean absolute error, the loss of DRSformer.

  Its derivative is 0 where both are equal.

  Args:
    restored: restored images, float [b, h, w, c].
    target: clean images in [0, 1], float [b, h, w, c].

  Returns:
    Float32 or better [b].

  Raises:
    ValueError: shapes differ or are wrong, or a dtype is not floating.

  Source: CoIC, the published program.
  """
  error = _difference(restored, target)
  # The derivative of abs at 0 is 1 in JAX.
  return _mean(error * jax.lax.stop_gradient(jnp.sign(error)))


@_jit
def charbonnier_loss(restored: Array, target: Array) -> Array:
  """Mean of sqrt(error^2 + 1e-6), a smooth absolute error.

  Args:
    restored: restored images, float [b, h, w, c].
    target: clean images in [0, 1], float [b, h, w, c].

  Returns:
    Float32 or better [b].

  Raises:
    ValueError: shapes differ or are wrong, or a dtype is not floating.

  Source: Zamir et al., "Multi-Stage Progressive Image Restoration", CVPR 2021,
  and CoIC's published program.
  """
  return _charbonnier(_difference(restored, target))


@_jit
def edge_loss(restored: Array, target: Array) -> Array:
  """Charbonnier loss between Laplacians, see `laplacian`.

  Args:
    restored: restored images, float [b, h, w, c].
    target: clean images in [0, 1], float [b, h, w, c].

  Returns:
    Float32 or better [b].

  Raises:
    ValueError: shapes differ or are wrong, or a dtype is not floating.

  Source: as `charbonnier_loss`.
  """
  # It is linear.
  return _charbonnier(laplacian(_difference(restored, target)))


@_jit
def laplacian(image: Array) -> Array:
  """What an image loses in a Laplacian pyramid's step down and up again.

  Both ways it is blurred with the taps 0.05, 0.25, 0.4, 0.25 and 0.05; the
  border pixels go on beyond the border.

  Args:
    image: float [b, h, w, c].

  Returns:
    Float32 or better [b, h, w, c].

  Raises:
    ValueError: the image has another rank, or is not floating.

  Source: as `charbonnier_loss`.
  """
  require_rank(4, image=image)
  require_floating(image=image)
  image = at_least_float32(image)
  taps = jnp.asarray(_LAPLACIAN_TAPS, image.dtype)

  def blur(x: Array) -> Array:
    reach = len(_LAPLACIAN_TAPS) // 2
    beyond = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    return image_ops.separable_filter(jnp.pad(x, beyond, 'edge'), taps)

  # Every other pixel, spread out with zeros between, counts four times.
  low = jnp.zeros_like(image).at[:, ::2, ::2].set(4 * blur(image)[:, ::2, ::2])
  return image - blur(low)


@_jit
def dgunet_loss(
  stages: Array, target: Array, *, edge_weight: ArrayLike = 0.05
) -> Array:
  """Charbonnier and edge losses of all outputs of DGUNet, summed.

  Args:
    stages: the images after each stage, float [n, b, h, w, 3].
    target: clean images in [0, 1], float [b, h, w, 3].
    edge_weight: of the edge losses, >= 0.

  Returns:
    Float32 or better [b].

  Raises:
    ValueError: shapes do not fit, or a dtype is not floating.

  Source: Mou et al., "Deep Generalized Unfolding Networks for Image
  Restoration", CVPR 2022, and CoIC's published program.
  """
  require_rank(5, stages=stages)

  def of_stage(restored: Array) -> Array:
    edges = edge_loss(restored, target)
    return charbonnier_loss(restored, target) + edge_weight * edges

  return jax.vmap(of_stage)(stages).sum(0)


@_jit
def rcdnet_loss(
  first_background: Array,
  backgrounds: Array,
  rain_layers: Array,
  image: Array,
  target: Array,
) -> Array:
  """Squared errors of all backgrounds and rain layers of RCDNet.

  The final background and the last rain layer count 1, all others 0.1. All is
  given in [0, 1], but the loss is on the published scale, where images are in
  [0, 255].

  Args:
    first_background: the image before the first stage, float [b, h, w, 3].
    backgrounds: those after each stage and the final one, float
      [stages + 1, b, h, w, 3].
    rain_layers: rain that each stage finds, float [stages, b, h, w, 3].
    image: rainy images in [0, 1], float [b, h, w, 3].
    target: clean images in [0, 1], float [b, h, w, 3].

  Returns:
    Float32 or better [b].

  Raises:
    ValueError: shapes do not fit, or a dtype is not floating.

  Source: Wang et al., "A Model-Driven Deep Neural Network for Single Image
  Rain Removal", CVPR 2020, and CoIC's published program.
  """
  require_rank(5, backgrounds=backgrounds, rain_layers=rain_layers)
  if len(backgrounds) != len(rain_layers) + 1 or not len(rain_layers):
    raise ValueError(
      f'backgrounds {list(backgrounds.shape)} must be one more than '
      f'rain_layers {list(rain_layers.shape)}, which must be at least one'
    )
  squared_error = jax.vmap(
    lambda x, y: _mean(jnp.square(_difference(x, y))), in_axes=(0, None)
  )
  rain = _difference(image, target)
  first, of_backgrounds, of_rain_layers = (
    squared_error(first_background[None], target),
    squared_error(backgrounds, target),
    squared_error(rain_layers, rain),
  )
  early = first[0] + of_backgrounds[:-1].sum(0) + of_rain_layers[:-1].sum(0)
  return 255.0**2 * (0.1 * early + of_backgrounds[-1] + of_rain_layers[-1])


def _difference(restored: Array, target: Array) -> Array:
  """Checks both images [b, h, w, c], and subtracts in float32 or better."""
  require_rank(4, restored=restored, target=target)
  require_floating(restored=restored, target=target)
  require_same_shape(restored=restored, target=target)
  return at_least_float32(restored) - at_least_float32(target)


def _mean(x: Array) -> Array:
  return x.mean((1, 2, 3))


def _charbonnier(error: Array) -> Array:
  return _mean(jnp.sqrt(jnp.square(error) + _CHARBONNIER_EPSILON))
