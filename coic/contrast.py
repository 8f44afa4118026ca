"""One pass of the query encoder against its momentum copy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from coic.encoder import Encoder, Encoding
from coic.losses import contrastive_loss
from common.array_types import (
  Array,
  ArrayLike,
  PyTree,
  require_rank,
  require_same_batch,
  require_same_shape,
)
from common.train_state import moving_average


class Contrast(NamedTuple):
  """Result of `contrast`.

  Attributes:
    loss: contrastive loss, float32 [b].
    z: unit embeddings of the query images, float32 [b, embedding_features].
    batch_stats: running statistics of the query encoder after the pass.
    momentum_params: parameters of the momentum encoder, as they were used.
    momentum_batch_stats: its running statistics after the pass.
  """

  loss: Array
  z: Array
  batch_stats: PyTree
  momentum_params: PyTree
  momentum_batch_stats: PyTree


def contrast(
  encoder: Encoder,
  params: PyTree,
  batch_stats: PyTree,
  momentum_params: PyTree,
  momentum_batch_stats: PyTree,
  query_image: Array,
  key_image: Array,
  negative_images: Array,
  *,
  momentum: float = 0.999,
  temperature: ArrayLike = 1.0,
) -> Contrast:
  """Encodes queries, keys and negatives in training mode, and compares them.

  First the momentum encoder's parameters move towards the query encoder's;
  its running statistics do not, they are those of the images it sees. Then it
  encodes keys and negatives as one batch, so that both are normalised by the
  same batch statistics. No gradient flows into it. The loss compares features,
  so it trains the convolutions of the query encoder; the layers that make z
  of them learn from what is done with z.

  Args:
    encoder: the architecture of both.
    params: parameters of the query encoder.
    batch_stats: its running statistics.
    momentum_params: parameters of the momentum encoder. At the start of a
      training they equal `params`.
    momentum_batch_stats: its running statistics.
    query_image: RGB in [0, 1], float [b, h, w, 3].
    key_image: other views of the same images, float [b, h, w, 3].
    negative_images: what each is told apart from, float [b, n, h, w, 3].
    momentum: weight of the old parameters, in [0, 1].
    temperature: divides the similarities, > 0.

  Returns:
    See `Contrast`.

  Raises:
    ValueError: shapes do not fit.

  Source: CoIC, the published program.
  """
  require_rank(4, query_image=query_image, key_image=key_image)
  require_rank(5, negative_images=negative_images)
  require_same_shape(query_image=query_image, key_image=key_image)
  require_same_batch(query_image=query_image, negative_images=negative_images)
  if negative_images.shape[2:] != key_image.shape[1:]:
    raise ValueError(
      f'negative_images {list(negative_images.shape)} must be of the size of '
      f'key_image {list(key_image.shape)}'
    )
  query, batch_stats = _encode(encoder, params, batch_stats, query_image)

  momentum_params = jax.lax.stop_gradient(
    moving_average(momentum_params, params, decay=momentum)
  )
  batch, count = negative_images.shape[:2]
  others, momentum_batch_stats = _encode(
    encoder,
    momentum_params,
    momentum_batch_stats,
    jnp.concatenate(
      [key_image, negative_images.reshape(-1, *key_image.shape[1:])]
    ),
  )
  key, negatives = jnp.split(jax.lax.stop_gradient(others.features), [batch])
  loss = contrastive_loss(
    query.features,
    key,
    negatives.reshape(batch, count, *key.shape[1:]),
    temperature=temperature,
  )
  return Contrast(
    loss, query.embedding, batch_stats, momentum_params, momentum_batch_stats
  )


def _encode(
  encoder: Encoder, params: PyTree, batch_stats: PyTree, image: Array
) -> tuple[Encoding, PyTree]:
  """Encodes by batch statistics, and moves the running ones."""
  variables = {'params': params, 'batch_stats': batch_stats}
  encoding, state = encoder.apply(
    variables, image, train=True, mutable=['batch_stats']
  )
  return encoding, state['batch_stats']
