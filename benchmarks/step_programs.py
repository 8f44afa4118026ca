"""Training steps as configs have them, and the shapes that they take.

Nothing is run, no data are read: for counting work and memory, and for
compiling.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

import coic.encoder
import coic.experiment
import coic.models
import coic.train
import rsdjax.experiment
import rsdjax.models
import rsdjax.train
import trnr.experiment
import trnr.models
import trnr.train
from common import cost, distributed, optimizers, steps
from common.array_types import compute_dtype
from common.data import datasets
from rsdjax import distillers

_GIB = 2**30

NUM_CLASSES = {'digits': 10, 'cifar100': 100, 'imagenet2012': 1000}


class StepProgram(NamedTuple):
  """A step, and shapes to compile it for.

  Attributes:
    step: for the devices of a mesh, see `common.steps.map_step`.
    state: before the first step.
    batch: of all devices.
    constants: what the step takes besides.
    least_memory: as the trainer has it, see `common.steps.map_step`.
  """

  step: steps.Step
  state: Any
  batch: Any
  constants: tuple[Any, ...] = ()
  least_memory: bool = False

  def lower(self, devices: int = 1) -> jax.stages.Lowered:
    """The step on a mesh of the first devices, traced.

    Args:
      devices: as many as state and batch are for.
    """
    return self._mapped(devices).lower(self.state, self.batch, *self.constants)

  def multiply_adds(self) -> int:
    """Of a step on one device."""
    return cost.multiply_adds(
      self._mapped(1), self.state, self.batch, *self.constants
    )

  def _mapped(self, devices: int) -> Any:
    mesh = distributed.make_mesh(jax.devices()[:devices])
    return steps.map_step(
      self.step, mesh, donate_state=True, least_memory=self.least_memory
    )


def rsd_program(
  config: ml_collections.ConfigDict, rows: int, devices: int = 1
) -> StepProgram:
  """The step of an RSD config, and the shapes that it takes.

  Args:
    config: as the files in `configs/rsd` build it.
    rows: examples of a device.
    devices: of the mesh.

  Returns:
    The step, for a mesh.
  """
  dtype, size = compute_dtype(config.train.dtype), config.data.image_size
  options = {'num_classes': NUM_CLASSES[config.data.name], 'image_size': size}
  student = rsdjax.models.create(
    **config.model.to_dict() | options, dtype=dtype
  )
  teacher = rsdjax.models.create(
    **config.teacher.model.to_dict() | options, dtype=dtype
  )
  distiller = distillers.create(
    **config.distiller.to_dict(),
    student_prefix_tokens=student.prefix_tokens,
    teacher_prefix_tokens=teacher.prefix_tokens,
  )
  tx = rsdjax.experiment.make_optimizer(
    config.optimizer, num_steps=config.train.num_steps
  )
  key = jax.random.key(0)
  image = jnp.zeros((1, size, size, 3))
  teacher_variables = jax.eval_shape(teacher.init, key, image)
  state = jax.eval_shape(
    lambda: rsdjax.experiment.create_train_state(
      key,
      student,
      teacher,
      distiller,
      tx,
      image_shape=(size, size, 3),
      teacher_variables=teacher_variables,
      average=config.train.ema_decay is not None,
    )
  )
  mean, std = datasets.MOMENTS[config.data.name]
  step = rsdjax.train.make_train_step(
    student,
    teacher,
    distiller,
    tx,
    mean=mean,
    std=std,
    loss=config.loss.name,
    label_smoothing=config.loss.label_smoothing,
    ema_decay=config.train.ema_decay,
    accumulation_steps=config.train.accumulation_steps,
    axis_name=distributed.AXIS_NAME,
  )
  count = rows * devices
  batch = {
    'image': jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct((count,), jnp.int32),
  }
  return StepProgram(
    step, state, batch, (teacher_variables,), least_memory=True
  )


def coic_program(
  config: ml_collections.ConfigDict, rows: int, devices: int = 1
) -> StepProgram:
  """The step of the last stage of a CoIC config; as `rsd_program`."""
  dtype = compute_dtype(config.train.dtype)
  model = config.model.to_dict()
  del model['weights']
  network = coic.models.create(**model, dtype=dtype)
  encoder = coic.encoder.Encoder(**config.encoder, dtype=dtype)
  tx = coic.experiment.make_optimizer(config)
  # Of the data, only the shapes are needed.
  parts = coic.experiment.Experiment(
    model, network, encoder, None, {}, tx, config
  )
  step = coic.train.make_step(parts, distributed.AXIS_NAME)
  crop = config.data.crop
  images = jax.ShapeDtypeStruct((rows * devices, crop, crop, 3), jnp.uint8)
  names = ['input', 'target']
  if config.model.modulated:
    names += ['whole_input', 'whole_target']
  state = jax.eval_shape(functools.partial(parts.initial_state, devices))
  return StepProgram(step, state, dict.fromkeys(names, images))


def trnr_parts(
  config: ml_collections.ConfigDict,
) -> tuple[trnr.models.RestorationNetwork, optax.GradientTransformation]:
  """Network and optimiser of a TRNR config, at its first learning rate."""
  options = config.optimizer.to_dict()
  del options['schedule']
  return trnr.models.create(**config.model), optimizers.make_optimizer(
    **options
  )


def trnr_program(
  config: ml_collections.ConfigDict, *, size: int = 64
) -> StepProgram:
  """The step of a TRNR config, on one device.

  Args:
    config: as the files in `configs/trnr` build it, of clustered sampling.
    size: of a patch, in pixels.

  Returns:
    The step.
  """
  network, tx = trnr_parts(config)
  block = config.adaptation
  step = trnr.train.make_task_step(
    network,
    tx,
    ssim_weight=config.loss.ssim_weight,
    inner_steps=block.inner_steps,
    first_order=block.first_order,
    over_tasks=block.over_tasks,
    remat=block.remat,
    axis_name=distributed.AXIS_NAME,
  )
  state = jax.eval_shape(
    lambda: trnr.experiment.create_train_state(
      jax.random.key(0), network, tx, config
    )
  )
  block = config.sampling
  tasks = {}
  for part, shots in (('support', block.shots), ('query', block.query_shots)):
    patches = jax.ShapeDtypeStruct(
      (
        block.num_tasks,
        block.frequencies * shots,
        size,
        size,
        network.channels,
      ),
      jnp.uint8,
    )
    tasks[part] = {'input': patches, 'target': patches}
  return StepProgram(step, state, tasks)


def needed(compiled: jax.stages.Compiled) -> tuple[float, float]:
  """GiB of the arguments, and of intermediate results at the peak."""
  memory = compiled.memory_analysis()
  if memory is None:
    raise RuntimeError('this backend does not count memory')
  return (
    memory.argument_size_in_bytes / _GIB,
    memory.temp_size_in_bytes / _GIB,
  )
