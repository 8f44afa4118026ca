"""Training of a student, alone or from a teacher."""

import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from common import (
  configuration,
  distributed,
  image_ops,
  layers,
  steps,
  train_state,
  training_loop,
)
from common.array_types import Array, Batch, PyTree, Variables
from common.data import pipeline
from common.data.sources import Numbered
from common.steps import Found, Step
from common.train_state import TrainState
from rsdjax import losses, pictures
from rsdjax.evaluate import make_scorer
from rsdjax.experiment import (
  BEST_METRIC,
  build,
  Experiment,
  export_student,
  MODEL_FILE,
  student_variables,
)

_LOGGER = logging.getLogger(__name__)

# Of logits and labels: softmax over the classes, or a sigmoid for each.
LOSSES = {
  'cross_entropy': losses.cross_entropy,
  'binary_cross_entropy': losses.binary_cross_entropy,
}


def make_train_step(
  student: nn.Module,
  teacher: nn.Module | None,
  distiller: nn.Module,
  tx: optax.GradientTransformation,
  *,
  mean: Sequence[float],
  std: Sequence[float],
  loss: str = 'cross_entropy',
  label_smoothing: float = 0.0,
  ema_decay: float | None = None,
  groups: int = 1,
  accumulation_steps: int = 1,
  axis_name: str | None = None,
) -> Step:
  """Builds the update of one batch, for jit, shard_map and pmap.

  Args:
    student: called with `train=True, features=True`.
    teacher: called with `train=False, features=True`; None without one.
    distiller: from `distillers.create`; unused without a teacher.
    tx: optimiser of student and distiller together.
    mean: per channel, of images in [0, 1].
    std: per channel, of images in [0, 1].
    loss: one of `LOSSES`, on the labels.
    label_smoothing: of integer labels, in [0, 1].
    ema_decay: decay of the running average of the student; None for none.
    groups: parts of the batch that keep their statistics to themselves, as if
      each had a device of its own; not for methods with memory banks.
    accumulation_steps: parts of the batch, one after another, to save memory;
      see `common.steps`.
    axis_name: device axis to average over; None on one device.

  Returns:
    `step(state, batch, teacher_variables)` with `image` uint8 [b, h, w, 3] (or
    standardised floats) and `label` int [b] or float [b, classes]; gives the
    new state and scalars. Without a teacher its variables are ignored.

  Raises:
    ValueError: the loss is unknown.
  """
  if loss not in LOSSES:
    raise ValueError(f'loss {loss!r} must be one of {", ".join(LOSSES)}')

  def losses_of(
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    taught: PyTree,
    rngs: dict[str, Array],
  ) -> tuple[dict[str, Array], PyTree]:
    images = image_ops.normalize(batch['image'], mean=mean, std=std)
    if taught is not None:
      # The teacher has let go of its arrays before the student takes any.
      images = layers.after(images, taught['embedding'])
    output, student_state = student.apply(
      {'params': params['student'], **model_state['student']},
      images,
      train=True,
      features=True,
      rngs={'dropout': rngs['dropout']},
      mutable=list(model_state['student']),
    )
    # Mixed labels come smoothed from the input pipeline.
    mixed = jnp.issubdtype(batch['label'].dtype, jnp.floating)
    per_example = LOSSES[loss](
      output['logits'],
      batch['label'],
      label_smoothing=0.0 if mixed else label_smoothing,
    )
    terms = {loss: per_example.mean()}
    distiller_state: PyTree = {}
    if teacher is not None:
      distilled, distiller_state = distiller.apply(
        {'params': params['distiller'], **model_state['distiller']},
        output,
        taught,
        batch,
        train=True,
        rngs={'negatives': rngs['negatives']},
        mutable=list(model_state['distiller']),
      )
      terms |= distilled
    new_state = {'student': student_state, 'distiller': distiller_state}
    return {'loss': sum(terms.values()), **terms}, new_state

  def losses_of_groups(
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    taught: PyTree,
    rngs: dict[str, Array],
  ) -> tuple[dict[str, Array], PyTree]:
    if groups == 1:
      return losses_of(params, model_state, batch, taught, rngs)
    batches, taught = jax.tree.map(
      lambda x: x.reshape(groups, -1, *x.shape[1:]), (batch, taught)
    )
    dropout = jax.random.split(rngs['dropout'], groups)
    each = jax.vmap(
      lambda batch, taught, dropout: losses_of(
        params, model_state, batch, taught, rngs | {'dropout': dropout}
      )
    )(batches, taught, dropout)
    return jax.tree.map(lambda x: x.mean(axis=0), each)

  def find(
    state: TrainState, batch: Batch, teacher_variables: Variables
  ) -> Found:
    dropout = jax.random.fold_in(state.rng, state.step)
    dropout = distributed.device_key(dropout, axis_name)

    def loss_fn(
      params: PyTree, model_state: PyTree, batch: Batch, part: Array | int
    ) -> tuple[dict[str, Array], PyTree]:
      taught = None
      if teacher is not None:
        images = image_ops.normalize(batch['image'], mean=mean, std=std)
        taught = teacher.apply(
          teacher_variables, images, train=False, features=True
        )
      rngs = {
        'dropout': jax.random.fold_in(dropout, part),
        # Negatives follow from the example, whatever device it lies on.
        'negatives': jax.random.fold_in(state.rng, ~state.step),
      }
      return losses_of_groups(params, model_state, batch, taught, rngs)

    return steps.differentiate(
      loss_fn,
      state.params,
      state.model_state,
      batch,
      accumulation_steps=accumulation_steps,
      axis_name=axis_name,
    )

  def update(
    state: TrainState, found: Found
  ) -> tuple[TrainState, dict[str, Array]]:
    state = state.apply_gradients(found.gradients, found.model_state, tx)
    if ema_decay is not None:
      average = train_state.moving_average(
        state.ema, student_variables(state), decay=ema_decay
      )
      state = state.replace(ema=average)
    return state, found.terms | steps.norms(state, found)

  return Step(find, update)


def prepare(
  config: ml_collections.ConfigDict, teacher_path: str | pathlib.Path | None
) -> tuple[Experiment, training_loop.Loop, TrainState]:
  """Builds all that a run needs, and writes nothing.

  Args:
    config: as the files in `configs/rsd` build it.
    teacher_path: model file (or the run folder of one); None for no teacher.

  Returns:
    Its parts, its loop, and its first state on all devices.

  Raises:
    FileNotFoundError: data or teacher are not there.
    ValueError: a config value or the teacher's file does not fit.
  """
  # Devices
  mesh = distributed.make_mesh()
  batch_size = config.train.batch_size
  distributed.require_divisible(batch_size, mesh)

  # Teacher, data, student, distiller, optimiser
  experiment = build(config, teacher_path)
  dataset, student = experiment.dataset, experiment.student
  teacher_variables = distributed.replicate(experiment.teacher_variables, mesh)
  state = distributed.place(
    experiment.initial_state(),
    mesh,
    shard_optimizer=config.train.shard_optimizer,
  )
  count = sum(x.size for x in jax.tree.leaves(state.params['student']))
  _LOGGER.info(
    '%s: %d parameters, %d devices', config.model.name, count, mesh.size
  )

  # The step
  parallelism = config.train.parallelism
  step = make_train_step(
    student,
    experiment.teacher,
    experiment.distiller,
    experiment.tx,
    **experiment.normalisation,
    loss=config.loss.name,
    label_smoothing=config.loss.label_smoothing,
    ema_decay=config.train.ema_decay,
    groups=config.train.groups_per_device,
    accumulation_steps=config.train.accumulation_steps,
    axis_name=distributed.AXIS_NAME,
  )
  step_fn = training_loop.compile_step(
    step, mesh, config.train, least_memory=experiment.teacher is not None
  )

  names = ['test', 'ema_test'] if experiment.average else ['test']
  score = make_scorer(
    dict.fromkeys(names, student),
    dataset,
    mesh,
    batch_size=config.eval.batch_size,
    parallelism=parallelism,
  )

  def evaluate(state: TrainState) -> dict[str, float]:
    candidates = {'test': student_variables(state)}
    if state.ema is not None:
      candidates['ema_test'] = state.ema
    return score(candidates)

  order: dict[str, Any] = {
    'batch_size': batch_size,
    'seed': config.seed,
    'device_count': mesh.size,
    'repeats': config.train.augmentation_repeats,
  }

  def batches_from(position: int, first_step: int) -> Iterator[Batch]:
    del first_step
    source: pipeline.RandomAccess = dataset.train
    if experiment.distiller.needs_index:
      source = Numbered(dataset.train)
    batches = pipeline.train_iterator(
      source,
      dataset.train_transform,
      **order,
      start_step=position,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      batch_transform=dataset.batch_transform,
      num_workers=config.train.data_workers,
    )
    return (distributed.shard_batch(b, mesh, parallelism) for b in batches)

  def example_names(position: int) -> list[str]:
    numbers = pipeline.example_numbers(
      len(dataset.train), position=position, **order
    )
    return [f'number {i}' for i in numbers]

  show = None
  if config.train.pictures:
    show = pictures.make_pictures(
      experiment,
      teacher_variables,
      rows=config.eval.batch_size // mesh.size,  # What a device has room for.
    )
  loop = training_loop.Loop(
    step_fn=step_fn,
    make_batches=batches_from,
    evaluate=evaluate,
    best_metric=BEST_METRIC,
    batch_size=batch_size,
    constants=(teacher_variables,),
    name_examples=example_names,
    pictures=show,
    **training_loop.loop_options(config.train),
  )
  return experiment, loop, state


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, float]:
  """Trains a student as a config says, from scratch or from where it stopped.

  Args:
    config: as the files in `configs/rsd` build it.
    workdir: folder of the run. It gets the resolved config, `metrics.jsonl`,
      pictures, checkpoints and at the end the student as `model.safetensors`.
      Where it holds a checkpoint, the run goes on from there.

  Returns:
    Scores of the last state: `test_top1`, `test_top5` (fractions),
    `test_cross_entropy` (nats), and the same of the running average as
    `ema_test_...`.

  Raises:
    ValueError: a config value or a checkpoint does not fit.
    FloatingPointError: the loss is not finite any more.
  """
  workdir = pathlib.Path(workdir)
  configuration.write(config, workdir)
  teacher_path = None
  if config.distiller.name != 'none':
    teacher_path = config.teacher.checkpoint or train_teacher(config, workdir)
  experiment, loop, state = prepare(config, teacher_path)
  state, scores = loop.run(state, workdir)
  if jax.process_index() == 0:
    export_student(experiment, state, scores, workdir / MODEL_FILE)
  return scores


def train_teacher(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> pathlib.Path:
  """Trains the config's teacher by this same program.

  Args:
    config: of the student; its `teacher` block says what differs.
    workdir: folder of the student's run; the teacher's is below it.

  Returns:
    The file that the teacher is exported to.

  Raises:
    ValueError: as `train_and_evaluate` and `teacher_config`.
  """
  train_and_evaluate(teacher_config(config), workdir / 'teacher')
  distributed.wait_for_all('teacher')  # Process 0 writes, and all read.
  return workdir / 'teacher' / MODEL_FILE


def teacher_config(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """The config of the run that trains a config's teacher.

  Raises:
    ValueError: the teacher is to be trained for no steps.
  """
  if config.teacher.num_steps < 1:
    raise ValueError(
      'config.teacher.checkpoint is empty and config.teacher.num_steps is '
      f'{config.teacher.num_steps}: name a model file (rsdjax.convert makes '
      'one of timm weights), or steps to train the teacher for'
    )
  own = config.copy_and_resolve_references()
  with own.unlocked():
    own.distiller.name = 'none'
    own.model = config.teacher.model
    own.optimizer = config.teacher.optimizer
    own.train.num_steps = config.teacher.num_steps
  return own
