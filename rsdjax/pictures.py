"""What a run shows of its student: how it correlates with the teacher."""

import dataclasses
import io
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from common import distributed
from common.array_types import Variables
from common.data import pipeline
from common.train_state import TrainState
from rsdjax import analysis, experiment


def make_pictures(
  parts: experiment.Experiment, teacher_variables: Variables, *, rows: int
) -> Callable[[TrainState], dict[str, np.ndarray]] | None:
  """Builds the pictures of a run that distils by RSD.

  Args:
    parts: of the run.
    teacher_variables: of the teacher, on all devices.
    rows: test pictures to correlate over, the first ones; at most so many.

  Returns:
    A function of a state that gives `correlation`: the matrix that RSD drives
    towards the identity, over the same test pictures each time. It computes on
    one device. None for runs without RSD.
  """
  if 'rsd' not in parts.distiller.terms:
    return None
  local = distributed.on_one_device(teacher_variables)
  features = analysis.make_feature_step(
    dataclasses.replace(parts, teacher_variables=local)
  )
  first = next(
    pipeline.evaluation_batches(
      parts.dataset.test,
      parts.dataset.eval_transform,
      batch_size=min(rows, len(parts.dataset.test)),
      num_threads=0,
    )
  )

  def pictures(state: TrainState) -> dict[str, np.ndarray]:
    seen = distributed.on_one_device(state.replace(opt_state=(), ema=None))
    found = jax.device_get(features(seen, jnp.asarray(first['image'])))
    correlation = analysis.embedding_correlation([found])
    if correlation is None:
      return {}
    file = io.BytesIO()
    title = f'step {int(state.step)}, {len(first["image"])} test pictures'
    analysis.plot_matrices({title: np.asarray(correlation).T}, file)
    return {'correlation': np.asarray(Image.open(file).convert('RGB'))}

  return pictures
