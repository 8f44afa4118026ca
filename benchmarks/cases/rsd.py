"""RSD: the loss alone, and training steps of whole pairs."""

import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import torch

from benchmarks.peers import networks
from benchmarks.peers import rsd as peers
from benchmarks.side_by_side import Case, Prepared
from benchmarks.step_programs import NUM_CLASSES, rsd_program, StepProgram
from common import (
  configuration,
  cost,
  distributed,
  train_state,
  weight_conversion,
)
from common.array_types import Variables
from common.data import datasets
from common.train_state import TrainState
from rsdjax import convert, experiment, losses

_CONFIGS = pathlib.Path(__file__).parents[2] / 'configs' / 'rsd'
_LOSS_SHAPES = ((128, 384), (128, 768), (256, 2048), (1024, 768))

# PyTorch's names of what a distiller trains.
_DECOUPLER = {
  'terms_rsd/aad/expand': '0',
  'terms_rsd/aad/norm': '1',
  'terms_rsd/aad/project': '3',
}


def cases() -> Iterator[Case]:
  """The loss at several shapes, then the steps of three pairs."""
  for batch, dim in _LOSS_SHAPES:
    yield _loss_case(batch, dim)
  pair = 'cifar100.py:convnext_tiny->deit_tiny_patch16_224'
  yield _step_case('convnext_tiny deit_tiny 224', pair, batch_size=8)
  pair = 'cifar100.py:swin_tiny_patch4_window7_224->resnet18'
  # The shifts of `_weights` cost the decoupler's gradient digits.
  yield _step_case('swin_tiny resnet18 224', pair, batch_size=8, tolerance=5e-3)
  yield _step_case(
    'cifar100_small 32', 'cifar100_small.py', batch_size=128, compiles=True
  )


def _loss_case(batch: int, dim: int) -> Case:
  """Value and gradient with respect to the student's embedding."""
  run = jax.jit(jax.value_and_grad(losses.rsd_loss))

  def embeddings() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    teacher, noise = rng.standard_normal((2, batch, dim), np.float32)
    return teacher + noise, teacher

  def ours() -> Prepared:
    student, teacher = jax.device_put(embeddings())
    compiled, seconds = _compile(run.lower(student, teacher))

    def values() -> Mapping[str, Any]:
      return _named_loss(*compiled(student, teacher))

    return Prepared(
      lambda: jax.block_until_ready(compiled(student, teacher)), values, seconds
    )

  def peer(loss_fn: Any = peers.rsd_loss) -> Prepared:
    student, teacher = map(torch.from_numpy, embeddings())
    student.requires_grad_()

    def run() -> tuple[torch.Tensor, torch.Tensor]:
      loss = loss_fn(student, teacher)
      return loss.detach(), *torch.autograd.grad(loss, student)

    return Prepared(run, lambda: _named_loss(*run()))

  shape = jax.ShapeDtypeStruct((batch, dim), jnp.float32)
  return Case(
    name=f'rsd_loss {batch}x{dim}',
    ours=ours,
    peer=peer,
    compiled_peer=lambda: peer(torch.compile(peers.rsd_loss)),
    multiply_adds=lambda: cost.multiply_adds(run, shape, shape),
    target=0.5,
  )


def _named_loss(loss: Any, gradient: Any) -> Mapping[str, Any]:
  return {'loss': loss, 'gradient': gradient}


def _compile(lowered: jax.stages.Lowered) -> tuple[Callable[..., Any], float]:
  """The program, and the seconds that it took to compile."""
  start = time.perf_counter()
  compiled = lowered.compile()
  return compiled, time.perf_counter() - start


def _step_case(
  name: str,
  path: str,
  *,
  batch_size: int,
  image_size: int | None = None,
  tolerance: float = 1e-4,
  compiles: bool = False,
) -> Case:
  """A training step as a config says, in its first epoch.

  Args:
    name: of the pair and the size of its images.
    path: of the config, its argument included.
    batch_size: images of a step.
    image_size: side of the images; None means that of the config.
    tolerance: see `Case`.
    compiles: whether `torch.compile` is done within two minutes.
  """
  config = configuration.load(str(_CONFIGS / path))
  with config.unlocked():
    config.model.drop_path_rate = 0.0  # The two sides would draw differently.
    config.data.image_size = image_size or config.data.image_size
    config.train.batch_size = batch_size

  return Case(
    name=f'rsd_step {name}',
    ours=lambda: _our_step(config),
    peer=lambda: _peer_step(config),
    tolerance=tolerance,
    compiled_peer=(
      (lambda: _peer_step(config, compiled=True)) if compiles else None
    ),
    multiply_adds=lambda: rsd_program(config, batch_size).multiply_adds(),
  )


def _model_options(config: ml_collections.ConfigDict) -> dict[str, int]:
  """What both networks share."""
  return {
    'num_classes': NUM_CLASSES[config.data.name],
    'image_size': config.data.image_size,
  }


def _moments(config: ml_collections.ConfigDict) -> dict[str, Sequence[float]]:
  return dict(
    zip(('mean', 'std'), datasets.MOMENTS[config.data.name], strict=True)
  )


def _batch(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
  """Random images, and labels: mixed where the recipe mixes."""
  rng = np.random.default_rng(0)
  rows, side = config.train.batch_size, config.data.image_size
  classes = NUM_CLASSES[config.data.name]
  label = rng.integers(classes, size=rows, dtype=np.int32)
  if config.data.get('mixup_alpha', 0.0):
    smoothing = config.data.mix_label_smoothing
    smooth = np.full((rows, classes), smoothing / classes, np.float32)
    smooth[np.arange(rows), label] += 1 - smoothing
    label = 0.7 * smooth + 0.3 * smooth[::-1]
  image = rng.integers(256, size=(rows, side, side, 3), dtype=np.uint8)
  return {'image': image, 'label': label}


def _networks(
  config: ml_collections.ConfigDict,
) -> dict[str, torch.nn.Module]:
  """The other side's `student`, `teacher` and `decoupler`."""
  options = _model_options(config)
  student = networks.create(**config.model, **options)
  teacher = networks.create(**config.teacher.model, **options)
  decoupler = peers.decoupler(
    networks.embedding_width(student),
    networks.embedding_width(teacher),
    config.distiller.rsd.expansion,
  )
  return {'student': student, 'teacher': teacher, 'decoupler': decoupler}


def _weights(
  config: ml_collections.ConfigDict, parts: Mapping[str, torch.nn.Module]
) -> dict[str, dict[str, np.ndarray]]:
  """First weights of each part, under the other side's names."""
  # What enters a ReLU lies near 4 after a BatchNorm, and seldom so close to 0
  # that rounding decides whether a gradient passes.
  bias = 4.0 if config.model.name.startswith('resnet') else 0.0
  return {
    name: networks.random_weights(part, bias=bias if name == 'student' else 0.0)
    for name, part in parts.items()
  }


def _first_state(
  config: ml_collections.ConfigDict, program: StepProgram
) -> tuple[TrainState, Variables]:
  """Our state before the first step, and the teacher's variables."""
  with torch.device('meta'):  # Names and shapes only.
    weights = _weights(config, _networks(config))
  options = _model_options(config)
  student, teacher = (
    convert.from_timm(**block, state_dict=weights[part], **options)
    for part, block in (
      ('student', config.model),
      ('teacher', config.teacher.model),
    )
  )
  template = {
    'params': program.state.params['distiller'],
    **program.state.model_state['distiller'],
  }
  found, differences = weight_conversion.from_torch(
    weights['decoupler'], template, _DECOUPLER
  )
  assert not differences, differences
  params, model_state = {}, {}
  for part, variables in (
    ('student', student),
    ('distiller', weight_conversion.unflatten(found)),
  ):
    params[part], model_state[part] = train_state.collections_of(variables)
  state = TrainState.create(
    params=params,
    model_state=model_state,
    tx=experiment.make_optimizer(
      config.optimizer, num_steps=config.train.num_steps
    ),
    rng=jax.random.key(0),
  )
  # The small programs that made it are no part of a step.
  jax.clear_caches()
  return state, teacher


def _our_step(config: ml_collections.ConfigDict) -> Prepared:
  batch = _batch(config)
  program = rsd_program(config, len(batch['image']))._replace(batch=batch)
  mesh = distributed.make_mesh()
  state, teacher_variables = _first_state(config, program)
  state = distributed.place(state, mesh)
  teacher_variables = distributed.replicate(teacher_variables, mesh)
  batch = distributed.shard_batch(batch, mesh)
  compiled, seconds = _compile(program.lower())

  def run() -> dict[str, jax.Array]:
    nonlocal state
    state, metrics = compiled(state, batch, teacher_variables)
    return jax.block_until_ready((state, metrics))[1]

  def values() -> Mapping[str, Any]:
    loss = run()['loss']
    # After one step, linear in the gradients.
    kind = 'trace' if config.optimizer.name == 'sgd' else 'mu'
    momentum = optax.tree.get(state.opt_state, kind)
    student, head = (
      {'params': momentum[part], **state.model_state[part]}
      for part in ('student', 'distiller')
    )
    named = convert.to_timm(config.model.name, student)
    of_head = weight_conversion.to_torch(head, _DECOUPLER)
    return {
      'loss': loss,
      **{f'student.{name}': x for name, x in named.items()},
      **{f'decoupler.{name}': x for name, x in of_head.items()},
    }

  return Prepared(run, values, seconds)


def _peer_step(
  config: ml_collections.ConfigDict, *, compiled: bool = False
) -> Prepared:
  parts = _networks(config)
  for part, weights in _weights(config, parts).items():
    parts[part].load_state_dict(
      {name: torch.from_numpy(x) for name, x in weights.items()}
    )
  step = peers.TrainingStep(
    **parts,
    optimizer=config.optimizer.name,
    # The schedule's first, which the published program holds for an epoch.
    learning_rate=config.optimizer.schedule.warmup_learning_rate,
    weight_decay=config.optimizer.weight_decay,
    clip_norm=config.optimizer.get('clip_norm'),
    **_moments(config),
    weight=config.distiller.rsd.weight,
    kappa=config.distiller.rsd.kappa,
    label_smoothing=config.loss.label_smoothing,
    compiled=compiled,
  )
  batch = _batch(config)
  images = torch.from_numpy(batch['image']).permute(0, 3, 1, 2).contiguous()
  labels = torch.from_numpy(batch['label'])
  labels = labels if labels.ndim == 2 else labels.long()

  def values() -> Mapping[str, Any]:
    loss = step(images, labels)
    kind = 'momentum_buffer' if config.optimizer.name == 'sgd' else 'exp_avg'
    named = {
      name: step.optimizer.state[parameter][kind]
      for name, parameter in step.trained.named_parameters()
    }
    statistics = {
      name: x
      for name, x in step.trained.named_buffers()
      if name.rpartition('.')[2].startswith('running')
    }
    return {'loss': loss, **named, **statistics}

  return Prepared(lambda: step(images, labels), values)
