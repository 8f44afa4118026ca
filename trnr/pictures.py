"""What a run shows: pictures that it restores, its tasks, and its clusters."""

import math

import numpy as np

from common import pictures
from common.train_state import TrainState
from trnr import experiment
from trnr.patch_set import PatchSet

_OF_CLUSTER = 4  # Patches that are shown.


class Pictures:
  """The pictures of a run, after each evaluation.

  Attributes:
    restorations: what the evaluation hands its pictures to.
  """

  def __init__(self, parts: experiment.Experiment):
    """Keeps the parts of the run."""
    strengths = len(parts.config.eval.sigmas) or 1
    self.restorations = pictures.Restorations(strengths)
    self._parts = parts

  def __call__(self, state: TrainState) -> dict[str, np.ndarray]:
    """Pictures of a state that has just been evaluated.

    Args:
      state: of the run.

    Returns:
      See `pictures.Restorations.pictures`; for runs on tasks `tasks`, with a
      row for each task of the next step: its support patches, each degraded
      and clean; and after the first evaluation of a run on patches `clusters`,
      see `show_clusters`.
    """
    found = self.restorations.pictures()
    config, step = self._parts.config, int(state.step)
    if config.sampling.name == 'rcs':
      support = next(self._parts.make_batches(step))['support']
      pairs = np.stack([support['input'], support['target']], axis=2)
      found['tasks'] = pictures.grid(
        [task.reshape(-1, *task.shape[2:]) for task in pairs]
      )
    patch_set = self._parts.patch_set
    if patch_set is not None and step <= config.train.eval_every_steps:
      found['clusters'] = show_clusters(patch_set)
    return found


def show_clusters(patch_set: PatchSet) -> np.ndarray:
  """Draws the first patches of each cluster side by side.

  Args:
    patch_set: to draw.

  Returns:
    RGB, uint8 [h, w, 3], about as wide as high: row by row the clusters, from
    the top of the first column down.
  """
  count = len(patch_set.sizes)
  blank = np.full_like(patch_set.clean[0], 255)
  height = math.ceil(math.sqrt(count * (_OF_CLUSTER + 1)))
  strips = []
  for start, size in zip(patch_set.starts, patch_set.sizes, strict=True):
    patches = [*patch_set.clean[start : start + min(size, _OF_CLUSTER)]]
    strips.append(patches + [blank] * (_OF_CLUSTER + 1 - len(patches)))
  columns = [strips[i : i + height] for i in range(0, count, height)]
  rows = [
    [x for column in columns for x in (column[i] if i < len(column) else ())]
    for i in range(min(height, count))
  ]
  return pictures.grid(rows)
