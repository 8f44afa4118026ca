"""What a config builds: data, networks, distiller, optimiser, first state."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from common import configuration, distributed, optimizers, train_state
from common.array_types import Array, compute_dtype, Variables
from common.checkpoints import (
  export_model,
  load_model,
  require_same_variables,
)
from common.data import datasets
from common.initialization import initialize
from common.train_state import TrainState
from rsdjax import distillers, models

MODEL_FILE = 'model.safetensors'
BEST_METRIC = 'test_top1'


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All that a run is made of, but its state.

  Attributes:
    dataset: pictures and their transforms.
    description: arguments of `models.create` for the student.
    student: network to train.
    teacher: its teacher, or None.
    teacher_variables: of the teacher; empty without one.
    distiller: what the student learns from the teacher.
    tx: optimiser of student and distiller together.
    rng: key of the run.
    average: whether there is a running average of the student.
  """

  dataset: datasets.ClassificationData
  description: dict[str, Any]
  student: nn.Module
  teacher: nn.Module | None
  teacher_variables: Variables
  distiller: distillers.Distiller
  tx: optax.GradientTransformation
  rng: Array
  average: bool

  @property
  def normalisation(self) -> dict[str, Any]:
    """`mean` and `std` of the images in [0, 1], per channel."""
    return {'mean': tuple(self.dataset.mean), 'std': tuple(self.dataset.std)}

  def initial_state(self) -> TrainState:
    """The state before the first step; the same for the same seed."""
    size = self.description['image_size']
    return create_train_state(
      self.rng,
      self.student,
      self.teacher,
      self.distiller,
      self.tx,
      image_shape=(size, size, 3),
      teacher_variables=self.teacher_variables,
      average=self.average,
    )


def build(
  config: ml_collections.ConfigDict, teacher_path: str | pathlib.Path | None
) -> Experiment:
  """Builds what a config describes.

  Args:
    config: as the files in `configs/rsd` build it.
    teacher_path: model file (or the run folder of one); None for no teacher.

  Returns:
    The experiment.

  Raises:
    FileNotFoundError: data or teacher are not there.
    ValueError: a value of the config or the teacher's file does not fit.
  """
  _check_train(config)
  dtype = compute_dtype(config.train.dtype)
  dataset = datasets.classification(**config.data)
  teacher: nn.Module | None = None
  teacher_variables: Variables = {}
  if teacher_path is not None:
    teacher, teacher_variables, _ = load_network(teacher_path, dtype=dtype)
  description = config.model.to_dict() | {
    'num_classes': dataset.num_classes,
    'image_size': config.data.image_size,
  }
  over_devices = config.train.batch_norm == 'global'
  student = models.create(
    **description,
    dtype=dtype,
    axis_name=distributed.AXIS_NAME if over_devices else None,
  )
  distiller = distillers.create(
    **config.distiller.to_dict(),
    student_prefix_tokens=student.prefix_tokens,
    teacher_prefix_tokens=teacher.prefix_tokens if teacher else 0,
    train_labels=lambda: dataset.train.labels,
  )
  return Experiment(
    dataset=dataset,
    description=description,
    student=student,
    teacher=teacher,
    teacher_variables=teacher_variables,
    distiller=distiller,
    tx=make_optimizer(config.optimizer, num_steps=config.train.num_steps),
    rng=jax.random.key(config.seed),
    average=config.train.ema_decay is not None,
  )


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
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  variables = initialize(student, rng_student, images)
  head: Variables = {}
  if teacher is not None:
    outputs = [
      jax.eval_shape(functools.partial(m.apply, features=True), v, images)
      for m, v in ((student, variables), (teacher, teacher_variables))
    ]
    batch = {'label': jax.ShapeDtypeStruct(images.shape[:1], jnp.int32)}
    head = initialize(distiller, rng_distiller, *outputs, batch, train=True)
  params, model_state = {}, {}
  for part, of_part in (('student', variables), ('distiller', head)):
    params[part], model_state[part] = train_state.collections_of(of_part)
  return TrainState.create(
    params=params,
    model_state=model_state,
    tx=tx,
    rng=rng_steps,
    # A copy: the step donates both.
    ema=jax.tree.map(jnp.copy, variables) if average else None,
  )


def student_variables(state: TrainState) -> Variables:
  """What `student.apply` takes, without the distiller."""
  return {'params': state.params['student'], **state.model_state['student']}


def export_student(
  parts: Experiment,
  state: TrainState,
  scores: Mapping[str, float],
  path: pathlib.Path,
) -> None:
  """Writes the student of a state to a file that `load_network` reads.

  Args:
    parts: of the run.
    state: of the run.
    scores: of the state.
    path: the file, which is replaced as a whole or not at all.
  """
  description = {
    'model': parts.description,
    **parts.normalisation,
    'scores': dict(scores),
  }
  export_model(path, student_variables(state), description)


def load_network(
  path: str | pathlib.Path, *, dtype: jax.typing.DTypeLike | None = None
) -> tuple[nn.Module, Variables, dict[str, float]]:
  """Reads a network that a run has exported.

  Args:
    path: a `model.safetensors`, or a run folder that holds one.
    dtype: of the computation; None means float32.

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
  network = models.create(**description['model'], dtype=dtype)
  require_variables(
    network, variables, description['model']['image_size'], str(path)
  )
  return network, variables, description['scores']


def require_variables(
  network: nn.Module, variables: Variables, image_size: int, source: str
) -> None:
  """Raises ValueError, naming what differs, unless they are the network's."""
  images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  expected = jax.eval_shape(network.init, jax.random.key(0), images)
  require_same_variables(variables, expected, source)


def make_schedule(
  block: ml_collections.ConfigDict, num_steps: int
) -> optax.Schedule:
  """Builds the learning-rate schedule of a config's `optimizer` block."""
  return optimizers.learning_rate_schedule(
    **block.schedule, learning_rate=block.learning_rate, num_steps=num_steps
  )


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
  del options['schedule']
  return optimizers.make_optimizer(
    **options | {'learning_rate': make_schedule(block, num_steps)}
  )


def _check_train(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError where parts of a run do not go together."""
  configuration.choice(config, 'train.batch_norm', distributed.STATISTICS)
  groups = config.train.groups_per_device
  if groups < 1 or config.train.batch_size % groups:
    raise ValueError(
      f'train.groups_per_device {groups} must divide train.batch_size '
      f'{config.train.batch_size}'
    )
  names = config.distiller.name.split('+')
  over_devices = [config.train.batch_norm] + [
    config.distiller[m].get('statistics', '')
    for m in names
    if m in config.distiller
  ]
  if groups > 1 and ('global' in over_devices or 'crd' in names):
    raise ValueError(
      f'train.groups_per_device {groups} keeps statistics apart: it goes with '
      'neither global statistics nor the memory banks of crd'
    )
  repeats = config.train.augmentation_repeats
  if repeats > 1 and 'crd' in names:
    raise ValueError(
      f'train.augmentation_repeats {repeats} puts an example into a batch more '
      'than once, which the memory banks of crd do not allow'
    )
