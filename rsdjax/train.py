"""Training of a student, alone or from a teacher."""

import functools
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from common import (
  configuration,
  distributed,
  evaluation,
  image_ops,
  optimizers,
  train_state,
  training_loop,
)
from common.array_types import Array, Batch, PyTree, Variables
from common.checkpoints import (
  Checkpoints,
  export_model,
  load_model,
  require_same_variables,
)
from common.data import datasets, pipeline
from common.data.sources import Numbered
from common.metric_writers import MetricWriter
from common.progress import Chrono
from common.train_state import TrainState
from rsdjax import distillers, losses, models

# Affine vectors of ResMLP, which the published program stores with three axes
# and therefore decays.

_LOGGER = logging.getLogger(__name__)
DECAYED_VECTORS = ('alpha', 'beta')
MODEL_FILE = 'model.safetensors'


def make_train_step(
  student: nn.Module,
  teacher: nn.Module | None,
  distiller: nn.Module,
  tx: optax.GradientTransformation,
  *,
  mean: Sequence[float],
  std: Sequence[float],
  label_smoothing: float = 0.0,
  ema_decay: float | None = None,
  axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """Builds the update of one batch, for jit, shard_map and pmap.

  Args:
    student: called with `train=True, features=True`.
    teacher: called with `train=False, features=True`; None without one.
    distiller: from `distillers.create`; unused without a teacher.
    tx: optimiser of student and distiller together.
    mean: per channel, of images in [0, 1].
    std: per channel, of images in [0, 1].
    label_smoothing: of integer labels, in [0, 1].
    ema_decay: decay of the running average of the student; None for none.
    axis_name: device axis to average over; None on one device.

  Returns:
    `step(state, batch, teacher_variables)` with `image` uint8 [b, h, w, 3] (or
    standardised floats) and `label` int [b] or float [b, classes]; gives the
    new state and scalars. Without a teacher its variables are ignored.
  """

  def losses_of(
    params: PyTree, state: TrainState, batch: Batch, taught: PyTree, rng: Array
  ) -> tuple[dict[str, Array], PyTree]:
    rng_dropout, rng_negatives = jax.random.split(rng)
    output, student_state = student.apply(
      {'params': params['student'], **state.model_state['student']},
      image_ops.normalize(batch['image'], mean=mean, std=std),
      train=True,
      features=True,
      rngs={'dropout': rng_dropout},
      mutable=list(state.model_state['student']),
    )
    # Mixed labels come smoothed from the input pipeline.
    mixed = jnp.issubdtype(batch['label'].dtype, jnp.floating)
    per_example = losses.cross_entropy(
      output['logits'],
      batch['label'],
      label_smoothing=0.0 if mixed else label_smoothing,
    )
    terms = {'cross_entropy': per_example.mean()}
    distiller_state = {}
    if teacher is not None:
      distilled, distiller_state = distiller.apply(
        {'params': params['distiller'], **state.model_state['distiller']},
        output,
        taught,
        batch,
        train=True,
        rngs={'negatives': rng_negatives},
        mutable=list(state.model_state['distiller']),
      )
      terms |= distilled
    new_state = {'student': student_state, 'distiller': distiller_state}
    return {'loss': sum(terms.values()), **terms}, new_state

  def step(
    state: TrainState, batch: Batch, teacher_variables: Variables
  ) -> tuple[TrainState, dict[str, Array]]:
    taught = None
    if teacher is not None:
      images = image_ops.normalize(batch['image'], mean=mean, std=std)
      taught = teacher.apply(
        teacher_variables, images, train=False, features=True
      )

    rng = jax.random.fold_in(state.rng, state.step)
    rng = distributed.device_key(rng, axis_name)

    def loss_fn(params: PyTree) -> tuple[Array, tuple[Any, PyTree]]:
      terms, model_state = losses_of(params, state, batch, taught, rng)
      terms = distributed.pmean(terms, axis_name)
      return terms['loss'], (terms, average_statistics(model_state, axis_name))

    gradients, (terms, model_state) = jax.grad(loss_fn, has_aux=True)(
      state.params
    )
    gradients = distributed.pmean(gradients, axis_name)
    state = state.apply_gradients(gradients, model_state, tx)
    if ema_decay is not None:
      average = train_state.moving_average(
        state.ema, student_variables(state), decay=ema_decay
      )
      state = state.replace(ema=average)
    norms = {
      'gradient_norm': optax.tree.norm(gradients),
      'parameter_norm': optax.tree.norm(state.params),
    }
    return state, terms | norms

  return step


def average_statistics(model_state: PyTree, axis_name: str | None) -> PyTree:
  """Means over devices of BatchNorm's running statistics.

  Other collections (memory banks) are the same on all devices already.

  Args:
    model_state: collections by module.
    axis_name: device axis; None leaves all as it is.

  Returns:
    The same tree.
  """
  return {
    module: {
      name: distributed.pmean(collection, axis_name)
      if name == 'batch_stats'
      else collection
      for name, collection in collections.items()
    }
    for module, collections in model_state.items()
  }


def make_eval_step(
  model: nn.Module,
  *,
  mean: Sequence[float],
  std: Sequence[float],
  axis_name: str | None = None,
) -> Callable[[Variables, Batch], evaluation.Sums]:
  """Builds the scoring of one padded batch.

  Args:
    model: called with `train=False`.
    mean: per channel, of images in [0, 1].
    std: per channel, of images in [0, 1].
    axis_name: device axis to sum over; None on one device.

  Returns:
    `step(variables, batch)` with `image`, integer `label` [b] and `mask` [b];
    gives sums and counts of `top1`, `top5` (fractions) and `cross_entropy`
    (nats).
  """

  def step(variables: Variables, batch: Batch) -> evaluation.Sums:
    images = image_ops.normalize(batch['image'], mean=mean, std=std)
    logits = model.apply(variables, images, train=False).astype(jnp.float32)
    _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = best == batch['label'][:, None]
    per_example = {
      'top1': hits[:, 0],
      'top5': hits.any(axis=1),
      'cross_entropy': losses.cross_entropy(logits, batch['label']),
    }
    sums = {
      name: evaluation.masked_sum(values, batch['mask'])
      for name, values in per_example.items()
    }
    return distributed.psum(sums, axis_name)

  return step


def create_train_state(
  rng: Array,
  student: nn.Module,
  teacher: nn.Module | None,
  distiller: nn.Module,
  tx: optax.GradientTransformation,
  *,
  image_shape: Sequence[int],
  teacher_variables: Variables | None = None,
  average: bool = False,
) -> TrainState:
  """Initialises student, distiller and optimiser.

  Args:
    rng: key of the run.
    student: network to train.
    teacher: its teacher, or None.
    distiller: from `distillers.create`.
    tx: optimiser of student and distiller together.
    image_shape: [h, w, channels] of a picture.
    teacher_variables: of the teacher, where there is one.
    average: keep a running average of the student.

  Returns:
    State with `params` and `model_state` of `student` and `distiller`.
  """
  rng_student, rng_distiller, rng_steps = jax.random.split(rng, 3)
  images = jnp.zeros((2, *image_shape), jnp.float32)

  def initialise() -> TrainState:
    variables = student.init(rng_student, images, train=False)
    head: Variables = {}
    if teacher is not None:
      outputs = [
        jax.tree.map(
          lambda x: jnp.zeros(x.shape, x.dtype),
          jax.eval_shape(functools.partial(m.apply, features=True), v, images),
        )
        for m, v in ((student, variables), (teacher, teacher_variables))
      ]
      batch = {'label': jnp.zeros((len(images),), jnp.int32)}
      head = distiller.init(rng_distiller, *outputs, batch, train=True)
    params, model_state = {}, {}
    for part, of_part in (('student', variables), ('distiller', head)):
      collections = train_state.collections_of(of_part)
      params[part], model_state[part] = collections
    return TrainState.create(
      params=params,
      model_state=model_state,
      tx=tx,
      rng=rng_steps,
      ema=variables if average else None,
    )

  return jax.jit(initialise)()


def student_variables(state: TrainState) -> Variables:
  """What `student.apply` takes, without the distiller."""
  return {'params': state.params['student'], **state.model_state['student']}


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, float]:
  """Trains a student as a config says, from scratch or from where it stopped.

  Args:
    config: as the files in `configs/rsd` build it.
    workdir: folder of the run. It gets the resolved config, `metrics.jsonl`,
      checkpoints and at the end the student as `model.safetensors`. Where it
      holds a checkpoint, the run goes on from there.

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

  # Devices
  mesh = distributed.make_mesh()
  batch_size = config.train.batch_size
  distributed.require_divisible(batch_size, mesh)

  # Data
  dataset = datasets.classification(**config.data)

  # Teacher
  teacher, teacher_variables = None, {}
  if config.distiller.name != 'none':
    path = config.teacher.checkpoint or train_teacher(config, workdir)
    teacher, teacher_variables, _ = load_network(path)
    teacher_variables = distributed.replicate(teacher_variables, mesh)

  # Student, distiller, optimiser
  description = config.model.to_dict() | {
    'num_classes': dataset.num_classes,
    'image_size': config.data.image_size,
  }
  distillers.require_statistics(config.train.batch_norm)
  over_devices = config.train.batch_norm == 'global'
  student = models.create(
    **description, axis_name=distributed.AXIS_NAME if over_devices else None
  )
  distiller = distillers.create(
    **config.distiller.to_dict(),
    student_prefix_tokens=student.prefix_tokens,
    teacher_prefix_tokens=teacher.prefix_tokens if teacher else 0,
    train_labels=lambda: dataset.train.labels,
  )
  tx = make_optimizer(config.optimizer, num_steps=config.train.num_steps)
  state = create_train_state(
    jax.random.key(config.seed),
    student,
    teacher,
    distiller,
    tx,
    image_shape=(config.data.image_size, config.data.image_size, 3),
    teacher_variables=teacher_variables,
    average=config.train.ema_decay is not None,
  )
  state = distributed.replicate(state, mesh)
  count = sum(x.size for x in jax.tree.leaves(state.params['student']))
  _LOGGER.info(
    '%s: %d parameters, %d devices, in %s',
    config.model.name,
    count,
    mesh.size,
    workdir,
  )

  # Steps
  normalisation = {'mean': tuple(dataset.mean), 'std': tuple(dataset.std)}
  parallelism = config.train.parallelism
  mapped = distributed.map_step(
    make_train_step(
      student,
      teacher,
      distiller,
      tx,
      **normalisation,
      label_smoothing=config.loss.label_smoothing,
      ema_decay=config.train.ema_decay,
      axis_name=distributed.AXIS_NAME,
    ),
    mesh,
    parallelism=parallelism,
    donate_state=True,
  )

  def step_fn(
    state: TrainState, batch: Batch
  ) -> tuple[TrainState, dict[str, Any]]:
    return mapped(state, batch, teacher_variables)

  score = make_scorer(
    student,
    dataset,
    mesh,
    batch_size=config.eval.batch_size,
    parallelism=parallelism,
  )

  def evaluate(state: TrainState) -> dict[str, float]:
    scores = {
      f'test_{name}': value
      for name, value in score(student_variables(state)).items()
    }
    if state.ema is not None:
      scores |= {f'ema_test_{n}': v for n, v in score(state.ema).items()}
    return scores

  with Checkpoints(workdir, best_metric='test_top1') as checkpoints:
    # Own checkpoint, or scratch
    first_step, seconds, scores = 0, 0.0, {}
    if checkpoints.last_step is not None:
      state, progress = checkpoints.restore(state)
      first_step = int(progress['data_position'])
      seconds, scores = float(progress['seconds']), progress['scores']
      _LOGGER.info('continuing from step %d', first_step)

    # Loop
    if first_step < config.train.num_steps:
      batches = pipeline.train_iterator(
        Numbered(dataset.train) if distiller.needs_index else dataset.train,
        dataset.train_transform,
        batch_size=batch_size,
        seed=config.seed,
        start_step=first_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        batch_transform=dataset.batch_transform,
        device_count=mesh.size,
        num_workers=config.train.data_workers,
      )
      state, scores = training_loop.run(
        state,
        step_fn=step_fn,
        batches=(
          distributed.shard_batch(b, mesh, parallelism) for b in batches
        ),
        evaluate=evaluate,
        chrono=Chrono(
          num_steps=config.train.num_steps,
          batch_size=batch_size,
          seconds_before=seconds,
        ),
        writer=MetricWriter(
          workdir,
          num_steps=config.train.num_steps,
          resumed_at=first_step,
          tensorboard=config.train.tensorboard,
        ),
        checkpoints=checkpoints,
        first_step=first_step,
        num_steps=config.train.num_steps,
        log_every_steps=config.train.log_every_steps,
        eval_every_steps=config.train.eval_every_steps,
        save_every_steps=config.train.save_every_steps,
      )

  # Export
  if jax.process_index() == 0:
    export_model(
      workdir / MODEL_FILE,
      student_variables(state),
      {'model': description, **normalisation, 'scores': scores},
    )
  return scores


def make_scorer(
  model: nn.Module,
  dataset: datasets.ClassificationData,
  mesh: Mesh,
  *,
  batch_size: int,
  parallelism: str = 'shard_map',
) -> Callable[[Variables], dict[str, float]]:
  """Builds the scoring of a model on the test split.

  Args:
    model: the network.
    dataset: its `test` split is scored.
    mesh: devices to use.
    batch_size: over all devices.
    parallelism: 'shard_map' or 'pmap'.

  Returns:
    A function of the variables; gives mean `top1`, `top5`, `cross_entropy`.

  Raises:
    ValueError: the batch does not split evenly over the devices.
  """
  distributed.require_divisible(batch_size, mesh)
  eval_step = distributed.map_step(
    make_eval_step(
      model,
      mean=dataset.mean,
      std=dataset.std,
      axis_name=distributed.AXIS_NAME,
    ),
    mesh,
    parallelism=parallelism,
  )

  def score(variables: Variables) -> dict[str, float]:
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


def load_network(
  path: str | pathlib.Path,
) -> tuple[nn.Module, Variables, dict[str, float]]:
  """Reads a network that a run has exported.

  Args:
    path: a `model.safetensors`, or a run folder that holds one.

  Returns:
    The module, its variables, and the scores of its run.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, or its variables are not the network's.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / MODEL_FILE
  variables, description = load_model(path)
  network = models.create(**description['model'])
  size = description['model']['image_size']
  expected = jax.eval_shape(
    network.init, jax.random.key(0), jnp.zeros((1, size, size, 3))
  )
  require_same_variables(variables, expected, str(path))
  return network, variables, description['scores']


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
    ValueError: as `train_and_evaluate`.
  """
  own = config.copy_and_resolve_references()
  with own.unlocked():
    own.distiller.name = 'none'
    own.model = config.teacher.model
    own.optimizer = config.teacher.optimizer
    own.train.num_steps = config.teacher.num_steps
  train_and_evaluate(own, workdir / 'teacher')
  return workdir / 'teacher' / MODEL_FILE


def make_optimizer(
  block: ml_collections.ConfigDict, *, num_steps: int
) -> optax.GradientTransformation:
  """Builds the optimiser of a config.

  Args:
    block: `optimizer` of a config: the arguments of `optimizers.make_optimizer`
      and, as `schedule`, those of `optimizers.learning_rate_schedule`.
    num_steps: length of the run.

  Returns:
    For student and distiller together.

  Raises:
    ValueError: a name or length is wrong.
  """
  options: dict[str, Any] = block.to_dict()
  schedule = optimizers.learning_rate_schedule(
    **options.pop('schedule'),
    learning_rate=options.pop('learning_rate'),
    num_steps=num_steps,
  )
  return optimizers.make_optimizer(
    **options, learning_rate=schedule, decayed_vectors=DECAYED_VECTORS
  )
