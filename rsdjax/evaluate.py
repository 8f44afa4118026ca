"""Scores a run: `python -m rsdjax.evaluate --config FILE --checkpoint FOLDER`.

Prints top-1 and top-5 on the test split of the student, of its running average
if there is one, and of the teacher, and how often they agree with the teacher.
"""

import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from absl import flags
from jax.sharding import Mesh

from common import (
  commands,
  distributed,
  evaluation,
  image_ops,
  steps,
)
from common.array_types import Array, Batch, Variables
from common.checkpoints import Checkpoints
from common.data import datasets, pipeline
from rsdjax import experiment, losses


def top_scores(logits: Array, labels: Array) -> dict[str, Array]:
  """Whether the label is the first, and among the first five choices.

  Args:
    logits: float [batch, classes].
    labels: integer [batch] in [0, classes).

  Returns:
    `top1` and `top5`, bool [batch].
  """
  _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
  hits = best == labels[:, None]
  return {'top1': hits[:, 0], 'top5': hits.any(axis=1)}


def make_eval_step(
  networks: Mapping[str, nn.Module],
  *,
  mean: Sequence[float],
  std: Sequence[float],
  agreement: bool = False,
  axis_name: str | None = None,
) -> Callable[[Mapping[str, Variables], Batch], evaluation.Sums]:
  """Builds the scoring of networks on one padded batch.

  Args:
    networks: by name.
    mean: per channel, of images in [0, 1].
    std: per channel, of images in [0, 1].
    agreement: count equal first choices of each pair too.
    axis_name: device axis to sum over; None on one device.

  Returns:
    `step(variables, batch)` with variables by name, and a batch of `image`,
    integer `label` [b] and `mask` [b]; gives sums and counts of `NAME_top1`,
    `NAME_top5` (fractions), `NAME_cross_entropy` (nats) and, if asked for,
    `NAME_NAME_agreement`.
  """

  def step(variables: Mapping[str, Variables], batch: Batch) -> evaluation.Sums:
    images = image_ops.normalize(batch['image'], mean=mean, std=std)
    labels = batch['label']
    per_example: dict[str, Array] = {}
    choices: dict[str, Array] = {}
    for name, network in networks.items():
      logits: Any = network.apply(variables[name], images, train=False)
      choices[name] = jnp.argmax(logits, axis=-1)
      scores = top_scores(logits, labels)
      scores['cross_entropy'] = losses.cross_entropy(logits, labels)
      per_example |= {f'{name}_{key}': x for key, x in scores.items()}
    for a, b in itertools.combinations(networks, 2) if agreement else ():
      per_example[f'{a}_{b}_agreement'] = choices[a] == choices[b]
    sums = {
      key: evaluation.masked_sum(x, batch['mask'])
      for key, x in per_example.items()
    }
    return distributed.psum(sums, axis_name)

  return step


def make_scorer(
  networks: Mapping[str, nn.Module],
  dataset: datasets.ClassificationData,
  mesh: Mesh,
  *,
  batch_size: int,
  parallelism: str = 'shard_map',
  agreement: bool = False,
) -> Callable[[Mapping[str, Variables]], dict[str, float]]:
  """Builds the scoring of networks on the test split.

  Args:
    networks: by name.
    dataset: its `test` split is scored.
    mesh: devices to use.
    batch_size: over all devices.
    parallelism: 'shard_map' or 'pmap'.
    agreement: see `make_eval_step`.

  Returns:
    A function of the variables by name; gives means, named as
    `make_eval_step` does.

  Raises:
    ValueError: the batch does not split evenly over the devices.
  """
  distributed.require_divisible(batch_size, mesh)
  eval_step = steps.map_step(
    make_eval_step(
      networks,
      mean=dataset.mean,
      std=dataset.std,
      agreement=agreement,
      axis_name=distributed.AXIS_NAME,
    ),
    mesh,
    parallelism=parallelism,
  )

  def score(variables: Mapping[str, Variables]) -> dict[str, float]:
    batches = pipeline.evaluation_batches(
      dataset.test,
      dataset.eval_transform,
      batch_size=batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    sharded = (distributed.shard_batch(b, mesh, parallelism) for b in batches)
    return evaluation.evaluate(eval_step, variables, sharded)

  return score


def evaluate(
  config: ml_collections.ConfigDict,
  checkpoint: str | pathlib.Path,
  *,
  which: str = 'last',
) -> dict[str, float]:
  """Scores student, running average and teacher, and their agreement.

  Args:
    config: of the run.
    checkpoint: folder of the run, or an exported `model.safetensors`.
    which: 'last' or 'best' checkpoint of a run folder.

  Returns:
    Fractions by name, as `make_eval_step` names them, of `student`, `ema`
    and `teacher`, as far as they are there.

  Raises:
    FileNotFoundError: there is no such checkpoint, or no teacher.
    ValueError: the checkpoint is of another model, or `which` is wrong.
  """
  checkpoint = pathlib.Path(checkpoint)
  teacher_path = None
  if config.distiller.name != 'none':
    run = checkpoint if checkpoint.is_dir() else checkpoint.parent
    teacher_path = config.teacher.checkpoint or run / 'teacher'
  parts = experiment.build(config, teacher_path)
  networks: dict[str, nn.Module] = {}
  variables: dict[str, Variables] = {}
  if checkpoint.is_dir():
    with Checkpoints(
      checkpoint, best_metric=experiment.BEST_METRIC
    ) as checkpoints:
      state = checkpoints.read(which)
    found = {'student': experiment.student_variables(state)}
    if state.ema is not None:
      found['ema'] = state.ema
    for name, of_name in found.items():
      experiment.require_variables(
        parts.student, of_name, config.data.image_size, str(checkpoint)
      )
      networks[name], variables[name] = parts.student, of_name
  else:
    networks['student'], variables['student'], _ = experiment.load_network(
      checkpoint
    )
  if parts.teacher is not None:
    networks['teacher'] = parts.teacher
    variables['teacher'] = parts.teacher_variables

  mesh = distributed.make_mesh()
  score = make_scorer(
    networks,
    parts.dataset,
    mesh,
    batch_size=config.eval.batch_size,
    parallelism=config.train.parallelism,
    agreement=True,
  )
  return score(distributed.replicate(variables, mesh))


def main() -> None:
  """Runs `evaluate` on the flags and prints the scores."""
  scores = evaluate(
    flags.FLAGS.config, flags.FLAGS.checkpoint, which=flags.FLAGS.which
  )
  for name, value in scores.items():
    print(f'{name} {value:.4f}')


if __name__ == '__main__':
  commands.define_config_flag()
  flags.DEFINE_string('checkpoint', None, 'Run folder, or exported model.')
  flags.DEFINE_enum('which', 'last', ['last', 'best'], 'Of a run folder.')
  flags.mark_flag_as_required('checkpoint')
  commands.run(main)
