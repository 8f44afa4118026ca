"""The pictures that the two encoders compare."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from coic import negatives
from common.array_types import Array, Batch

RainSearch = Literal['per_device', 'global']


class Views(NamedTuple):
  """What the encoders compare, RGB in [0, 1].

  Attributes:
    query: rainy images, made small, float [b, h, w, 3].
    key: the same, flipped, float [b, h, w, 3].
    negatives: other rain and blurred scenes, float [b, n, h, w, 3].
  """

  query: Array
  key: Array
  negatives: Array


def make_views(
  rng: Array,
  batch: Batch,
  bank: negatives.RainBank | None,
  *,
  num_negatives: int = 4,
  draws: negatives.Draws = 'independent',
  rain_search: RainSearch = 'per_device',
  axis_name: str | None = None,
) -> tuple[Views, negatives.RainBank | None]:
  """Makes query, key and negatives of a batch.

  Args:
    rng: key of the flips and blurs, the same on all devices.
    batch: `input` and `target` (crops), `whole_input` and `whole_target` (all
      of the images, made as small), float RGB in [0, 1] [b, h, w, 3].
    bank: rain of earlier batches, or None.
    num_negatives: blurred scenes for each image; other rain is one more.
    draws: see `negatives.detail_aware_negatives`.
    rain_search: whether foreign rain is looked for among the pictures of this
      device, with a bank of its own, or among those of all, with one bank.
    axis_name: device axis of the batch; None on one device. Draws are those of
      one device that has the whole batch.

  Returns:
    The views, and the bank with this batch's rain.

  Source: CoIC, rain-/detail-aware contrastive learning.
  """
  rng_key, rng_negatives = jax.random.split(rng)
  query = batch['whole_input']
  rain, bank = negatives.rain_aware_negative(
    batch['input'],
    batch['target'],
    bank,
    axis_name=axis_name if rain_search == 'global' else None,
  )
  detail = negatives.detail_aware_negatives(
    rng_negatives,
    batch['whole_target'],
    count=num_negatives,
    draws=draws,
    axis_name=axis_name,
  )
  key = negatives.random_flips(rng_key, query, draws=draws, axis_name=axis_name)
  return Views(query, key, jnp.concatenate([rain[:, None], detail], 1)), bank
