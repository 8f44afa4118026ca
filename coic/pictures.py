"""What a run shows: pictures that it restores, and those that it compares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from coic import experiment, views
from common import distributed, image_ops, pictures
from common.train_state import TrainState


class Pictures:
  """The pictures of a run, after each evaluation; on one device.

  Attributes:
    restorations: what the evaluation hands its pictures to.
  """

  def __init__(self, parts: experiment.Experiment, *, rows: int):
    """Builds what is compiled once.

    Args:
      parts: of the run.
      rows: pairs of a step on one device, among which foreign rain is found.
    """
    self.restorations = pictures.Restorations(len(parts.test_sets))
    self._parts, self._rows = parts, rows
    block = parts.config.contrast
    self._make_views = jax.jit(
      functools.partial(
        views.make_views,
        bank=None,
        num_negatives=block.num_negatives,
        draws=block.draws,
      )
    )

  def __call__(self, state: TrainState) -> dict[str, np.ndarray]:
    """Pictures of a state that has just been evaluated.

    Args:
      state: of the run.

    Returns:
      See `pictures.Restorations.pictures`; and in the second stage of training
      `contrast`, with a row of query, positive, rain-aware negative and
      detail-aware negatives for each example of the next batch. Foreign rain is
      that of the batch, also where the run has a bank of it.
    """
    found = self.restorations.pictures()
    step = int(state.step)
    batch = next(self._parts.batches(step))
    if 'whole_input' not in batch:
      return found
    rng = jax.random.fold_in(distributed.on_one_device(state.rng), step)
    compared, _ = self._make_views(
      rng,
      {
        k: image_ops.as_float(jnp.asarray(x[: self._rows]))
        for k, x in batch.items()
      },
    )
    query, key, negatives = (
      np.asarray(x[: pictures.EXAMPLES]) for x in compared
    )
    rows = zip(query, key, negatives, strict=True)
    found['contrast'] = pictures.grid([[q, k, *n] for q, k, n in rows])
    return found
