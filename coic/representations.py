"""What the encoder makes of sets of pictures, in numbers."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from coic.encoder import Encoder
from coic.losses import contrastive_logits
from coic.negatives import rain_aware_negative
from coic.unit_vectors import unit_vectors
from common import image_ops
from common.array_types import (
  Array,
  ArrayLike,
  require_floating,
  require_rank,
  require_same_shape,
  Variables,
)


class Impact(NamedTuple):
  """How much rain and details matter to the encoder, of each picture.

  Attributes:
    rain: float32 [n], in [0, 2].
    detail: float32 [n], in [0, 2].
  """

  rain: Array
  detail: Array


def pooled_vectors(features: Array) -> Array:
  """One vector for a picture: the direction of its average feature.

  Args:
    features: feature maps, float [n, h, w, c], which need not be unit vectors.

  Returns:
    Unit vectors, float32 or better [n, c].

  Raises:
    ValueError: the maps have another rank, or are not floating.

  Source: CoIC, the published analysis.
  """
  require_rank(4, features=features)
  require_floating(features=features)
  return unit_vectors(unit_vectors(features).mean((1, 2)))


@functools.partial(jax.jit, static_argnames=('encoder', 'size', 'antialias'))
def dataset_vectors(
  encoder: Encoder,
  variables: Variables,
  images: Array,
  *,
  size: int = 128,
  antialias: bool = False,
) -> Array:
  """Vectors of the pictures of a set, by which sets are compared.

  Of the features that the contrastive loss compares, not the embeddings z.

  Args:
    encoder: the encoder.
    variables: of the momentum encoder.
    images: rainy or clean RGB in [0, 1], float [n, h, w, 3].
    size: side in pixels of what the encoder sees; the aspect ratio is not
      kept.
    antialias: see `common.image_ops.resize_bilinear`.

  Returns:
    Unit vectors, float32 [n, 8 * features].

  Raises:
    ValueError: the images are not floating or not [n, h, w, 3].

  Source: CoIC, the published analysis.
  """
  small = image_ops.resize_bilinear(images, size, antialias=antialias)
  return pooled_vectors(_feature_maps(encoder, variables, small))


def similarity(sets: Sequence[ArrayLike]) -> Array:
  """Mean cosines of all pairs of pictures out of two sets, for all sets.

  On the diagonal each picture meets itself too.

  Args:
    sets: unit vectors of the pictures of each set, float [n, dim]; n may
      differ.

  Returns:
    Symmetric, float32 or better [sets, sets], in [-1, 1].

  Raises:
    ValueError: a set is not [n, dim].

  Source: CoIC, the published analysis.
  """
  vectors = [jnp.asarray(x) for x in sets]
  for x in vectors:
    require_rank(2, vectors=x)
  # The mean of inner products is the inner product of the means.
  means = jnp.stack([x.mean(0) for x in vectors])
  return jnp.matmul(means, means.T, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames=('encoder',))
def impact(
  encoder: Encoder,
  variables: Variables,
  image: Array,
  target: Array,
  *,
  sigma: ArrayLike = 0.9,
) -> Impact:
  """How far the encoder's features move with the rain, and with the details.

  Our own definition: the paper shows such intensities, but how it computes
  them is not published. With `sim` the similarity of `contrastive_logits` and
  E the encoder's features, rain is 1 - sim(E(image), E(its rain-aware
  negative)), and detail is 1 - sim(E(image), E(the clean image, blurred)). So
  they are what the contrastive loss increases. Couples the pictures: foreign
  rain is looked for among all of them.

  Args:
    encoder: the encoder.
    variables: of the momentum encoder.
    image: rainy RGB in [0, 1], made as small as the encoder sees it, float
      [n, h, w, 3].
    target: the same of the clean images.
    sigma: of the blur in pixels; by default the middle of what training draws.

  Returns:
    See `Impact`.

  Raises:
    ValueError: shapes do not fit, or a dtype is not floating.
  """
  require_same_shape(image=image, target=target)
  foreign, _ = rain_aware_negative(image, target)
  blurred = image_ops.gaussian_blur(target, sigma)
  maps = _feature_maps(
    encoder, variables, jnp.concatenate([image, foreign, blurred])
  )
  own, foreign_maps, blurred_maps = jnp.split(maps, 3)
  cosines = contrastive_logits(own, foreign_maps, blurred_maps[:, None])
  return Impact(1 - cosines[:, 0], 1 - cosines[:, 1])


def impact_by_density(
  density: np.ndarray, found: Impact, *, width: float = 0.05
) -> list[dict[str, float]]:
  """Means of the impact over pictures of similar rain density.

  Args:
    density: mean absolute difference of rainy and clean image, [n], >= 0; our
      own definition too.
    found: the impact on the same pictures.
    width: of the intervals of density, from 0 on.

  Returns:
    For each interval that has pictures, where it begins (`density_from`), its
    `share` of them, and the means of `rain` and `detail`.

  Raises:
    ValueError: the arrays differ in length.
  """
  require_same_shape(
    density=jnp.asarray(density), rain=found.rain, detail=found.detail
  )
  rain, detail = (np.asarray(x) for x in found)
  intervals = np.floor(np.asarray(density) / width).astype(int)
  return [
    {
      'density_from': float(width * interval),
      'share': float((intervals == interval).mean()),
      'rain': float(rain[intervals == interval].mean()),
      'detail': float(detail[intervals == interval].mean()),
    }
    for interval in np.unique(intervals)
  ]


def planar_map(
  vectors: np.ndarray, *, neighbours: int = 50, seed: int = 42
) -> tuple[np.ndarray, str]:
  """Places unit vectors in the plane, so that alike ones are near each other.

  UMAP on a sphere where the `analysis` extra is installed: from the angles
  between the vectors to longitude and latitude. Else their two principal
  components.

  Args:
    vectors: unit vectors, float [n, dim].
    neighbours: that UMAP keeps near each vector.
    seed: of UMAP.

  Returns:
    Points [n, 2], of UMAP in degrees; and 'UMAP' or 'PCA', the way taken.

  Source: CoIC, the published analysis.
  """
  vectors = np.asarray(vectors)
  try:
    import umap
  except ImportError:
    from sklearn import decomposition  # Slow to import, too.

    return decomposition.PCA(2).fit_transform(vectors), 'PCA'
  angles = np.arccos((vectors @ vectors.T).clip(-1, 1))
  np.fill_diagonal(angles, 0)
  latitude, longitude = (
    umap.UMAP(
      n_neighbors=min(neighbours, len(vectors) - 1),
      min_dist=0.0,
      metric='precomputed',
      output_metric='haversine',
      random_state=seed,
      n_jobs=1,
    )
    .fit_transform(angles)
    .T
  )
  # UMAP's coordinates go round the sphere any number of times.
  points = (
    np.arctan2(
      np.cos(latitude) * np.sin(longitude), np.cos(latitude) * np.cos(longitude)
    ),
    np.arcsin(np.sin(latitude)),
  )
  return np.degrees(np.stack(points, 1)), 'UMAP'


def _feature_maps(
  encoder: Encoder, variables: Variables, images: Array
) -> Array:
  """Features [n, h / 8, w / 8, c]; in the memory of one picture."""

  def features_of(image: Array) -> Array:
    encoding: Any = encoder.apply(variables, image[None])
    return encoding.features[0]

  return jax.lax.map(features_of, images)
