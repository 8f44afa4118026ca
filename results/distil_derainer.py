"""Distils a derainer from one of another architecture: BRN teaches MSResNet.

`python -m results.distil_derainer --config configs/trnr/rain_small.py --workdir
FOLDER --teacher BRN --methods none,output,rsd --seeds 0,1` trains the config's
network, an MSResNet, on crops (`config.sampling.name` is rbs1). For a seed, all
methods share the first weights and the crops. A stopped comparison goes on
where it was.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from absl import flags

from coic.evaluate import Derainer, load_derainer
from common import (
  commands,
  configuration,
  distributed,
  image_ops,
  scores,
  steps,
  train_state,
  training_loop,
)
from common.array_types import Array, Batch, PyTree
from common.checkpoints import export_model
from common.data import pairs
from common.data.sources import Example
from common.initialization import initialize
from common.steps import Found, Step
from common.train_state import TrainState
from rsdjax.distillers import Distiller
from rsdjax.methods import Method, Output, RSD
from trnr import experiment, input_pipeline, losses, train
from trnr.models import RestorationNetwork

_LOGGER = logging.getLogger(__name__)
# What is pooled: the input of the last layer, by the end of its path.
_LAST_OF_STUDENT = ('tail',)
_LAST_OF_TEACHER = ('background', 'output')


class LikeTeacher(Method):
  """The student's picture should be the teacher's, by the loss of clean ones.

  Attributes:
    ssim_weight: see `losses.restoration_loss`.
  """

  ssim_weight: float = 5.0

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    return losses.restoration_loss(
      student['restored'], teacher['restored'], ssim_weight=self.ssim_weight
    ).mean()


# What the student learns beside the clean pictures. RSD is a sum over the
# matrix, so its default weight is a large one beside this loss.
METHODS: Mapping[str, Mapping[str, Method]] = {
  'none': {},
  'output': {'output': LikeTeacher()},
  'rsd': {'rsd': RSD(kappa=0.01)},
  'rsd_tenth': {'rsd': RSD(weight=0.01, kappa=0.01)},
}


@contextlib.contextmanager
def sown_inputs(*path: str) -> Iterator[None]:
  """Networks called inside sow what enters one of their layers.

  It is the only leaf of `intermediates` in the networks used here.

  Args:
    *path: the end of the layer's path.
  """

  def sow(
    call: Any, inputs: Any, options: Any, context: nn.module.InterceptorContext
  ) -> Any:
    layer = context.module
    if context.method_name == '__call__' and layer.path[-len(path) :] == path:
      layer.sow('intermediates', 'input', inputs[0])
    return call(*inputs, **options)

  with nn.intercept_methods(sow):
    yield


@functools.partial(jax.jit, static_argnums=0)
def _teach(
  network: nn.Module, variables: PyTree, image: Array
) -> tuple[Array, Array]:
  """The teacher's picture and its last features, of the last iteration."""
  with sown_inputs(*_LAST_OF_TEACHER):
    restored, state = network.apply(variables, image, mutable=['intermediates'])
  (features,) = jax.tree.leaves(state)
  return restored, features[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Lessons:
  """Pairs whose targets have the teacher's maps as further channels.

  Crops and flips thus change all of them alike, and the teacher works once on
  each whole picture: convolutions give a part of it what they give all of it.

  Attributes:
    inputs: degraded pictures, uint8 [h, w, 3].
    targets: clean picture, the teacher's and its last features, float32 [h, w,
      3 + 3 + features].
    names: of the pairs.
  """

  inputs: list[np.ndarray]
  targets: list[np.ndarray]
  names: tuple[str, ...]

  @property
  def features(self) -> int:
    """Channels of the teacher's last features."""
    return self.targets[0].shape[-1] - 6

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    return {'input': self.inputs[index], 'target': self.targets[index]}


def taught(source: pairs.PairSource, teacher: Derainer) -> Lessons:
  """Has a teacher look at all pictures of a source.

  Args:
    source: pairs, uint8.
    teacher: a BRN.
  """
  inputs, targets = [], []
  for index in range(len(source)):
    pair = source[index]
    image, clean = (
      np.asarray(pair[key] / 255, np.float32) for key in ('input', 'target')
    )
    maps = _teach(teacher.network, teacher.network_variables, image[None])
    inputs.append(pair['input'])
    targets.append(np.concatenate([clean, *(x[0] for x in maps)], axis=-1))
  return Lessons(inputs, targets, source.names)


def make_step(
  network: RestorationNetwork,
  distiller: Distiller,
  tx: optax.GradientTransformation,
  *,
  ssim_weight: float = 5.0,
  axis_name: str | None = None,
) -> Step:
  """Builds the update by a batch of crops of `Lessons`.

  Args:
    network: the student.
    distiller: what it learns beside the clean pictures.
    tx: optimiser of both.
    ssim_weight: see `losses.restoration_loss`.
    axis_name: device axis of the batch; None on one device.

  Returns:
    `step(state, batch)` for a state with the entries `network` and
    `distiller`; gives the new state and scalars.
  """

  def find(state: TrainState, batch: Batch) -> Found:
    def loss_fn(
      params: PyTree, model_state: PyTree, batch: Batch, part: Array | int
    ) -> tuple[dict[str, Array], PyTree]:
      del part
      clean, of_teacher, features = jnp.split(batch['target'], (3, 6), axis=-1)
      with sown_inputs(*_LAST_OF_STUDENT):
        restored, collections = network.apply(
          {'params': params['network'], **model_state['network']},
          image_ops.as_float(batch['input']),
          train=True,
          mutable=[*model_state['network'], 'intermediates'],
        )
      (own_features,) = jax.tree.leaves(collections.pop('intermediates'))
      distilled, distiller_state = distiller.apply(
        {'params': params['distiller'], **model_state['distiller']},
        {'restored': restored, 'embedding': own_features.mean((1, 2))},
        {'restored': of_teacher, 'embedding': features.mean((1, 2))},
        batch,
        train=True,
        mutable=[*model_state['distiller']],
      )
      terms = {
        'restoration_loss': losses.restoration_loss(
          restored, clean, ssim_weight=ssim_weight
        ).mean(),
        **distilled,
      }
      new_state = {'network': collections, 'distiller': distiller_state}
      return {'loss': sum(terms.values()), **terms}, new_state

    return steps.differentiate(
      loss_fn, state.params, state.model_state, batch, axis_name=axis_name
    )

  return Step(find, steps.update_by(tx))


def first_state(
  parts: experiment.Experiment, distiller: Distiller, lessons: Lessons
) -> TrainState:
  """TRNR's first state of the student, and that of a distiller beside it."""
  student = parts.initial_state()

  def output(width: int) -> dict[str, Any]:
    restored = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    embedding = jax.ShapeDtypeStruct((2, width), jnp.float32)
    return {'restored': restored, 'embedding': embedding}

  variables = initialize(
    distiller,
    student.rng,
    output(parts.network.features),
    output(lessons.features),
    {},
    train=True,
  )
  params, model_state = train_state.collections_of(variables)
  return TrainState.create(
    params={**student.params, 'distiller': params},
    model_state={**student.model_state, 'distiller': model_state},
    tx=parts.tx,
    rng=student.rng,
  )


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  lessons: Lessons,
) -> dict[str, float]:
  """Trains a student, from scratch or where it stopped.

  Args:
    config: as `compare` makes it.
    workdir: folder of the run, as of `trnr.train.train_and_evaluate`.
    lessons: what to learn from.

  Returns:
    See `trnr.train.train_and_evaluate`, as for errors.
  """
  workdir = pathlib.Path(workdir)
  configuration.write(config, workdir)
  parts, loop, _ = train.prepare(config, workdir)
  distiller = Distiller(METHODS[config.method])
  mesh = distributed.make_mesh()
  step = make_step(
    parts.network,
    distiller,
    parts.tx,
    ssim_weight=config.loss.ssim_weight,
    axis_name=distributed.AXIS_NAME,
  )
  loop = dataclasses.replace(
    loop,
    step_fn=training_loop.compile_step(step, mesh, config.train),
    make_batches=lambda position, first_step: (
      distributed.shard_batch(batch, mesh, config.train.parallelism)
      for batch in input_pipeline.train_batches(
        config, parts.network, lessons, None, position
      )
    ),
  )
  state = distributed.place(first_state(parts, distiller, lessons), mesh)
  state, found = loop.run(state, workdir)
  export_model(
    workdir / experiment.MODEL_FILE,
    experiment.exported_variables(state),
    {'model': parts.description, 'scores': found},
  )
  return found


def compare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  teacher: str | pathlib.Path,
  methods: Sequence[str],
  seeds: Sequence[int],
) -> dict[str, dict[str, float]]:
  """Trains a student for each method and seed.

  Args:
    config: of one run of TRNR on crops, to which seed, method and teacher are
      added.
    workdir: gets `METHOD_seedN/`.
    teacher: a BRN, see `coic.evaluate.load_derainer`.
    methods: of `METHODS`.
    seeds: one run each.

  Returns:
    Scores at the last step by run, see `trnr.train.train_and_evaluate`.

  Raises:
    ValueError: unknown method, or as `trnr.train.train_and_evaluate`.
  """
  if unknown := sorted({*methods} - {*METHODS}):
    raise ValueError(f'method {unknown[0]!r} must be one of {[*METHODS]}')
  workdir = pathlib.Path(workdir)
  derainer = load_derainer(teacher, name='brn')
  learn, _ = input_pipeline.open_data(**config.data)
  lessons = taught(learn, derainer)
  _LOGGER.info('%d pictures seen by the teacher', len(lessons))
  found = {}
  for method in methods:
    for seed in seeds:
      run = config.copy_and_resolve_references()
      with run.unlocked():
        run.seed, run.method, run.teacher = seed, method, str(teacher)
      folder = workdir / f'{method}_seed{seed}'
      found[folder.name] = train_and_evaluate(run, folder, lessons)
  return found


def main() -> None:
  """Runs `compare` on the flags and prints the scores."""
  values = flags.FLAGS
  rows = compare(
    values.config,
    values.workdir,
    teacher=values.teacher,
    methods=values.methods,
    seeds=[int(seed) for seed in values.seeds],
  )
  print(scores.table(rows))


if __name__ == '__main__':
  commands.define_config_flags('comparison')
  flags.DEFINE_string('teacher', None, 'Published weights of BRN, or a run.')
  flags.mark_flag_as_required('teacher')
  flags.DEFINE_list('methods', [*METHODS], 'Some of the methods above.')
  flags.DEFINE_list('seeds', '0', 'Seeds, one run each.')
  commands.run(main)
