"""What a config builds: data, network, optimiser, first state."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from common import configuration, distributed, optimizers, train_state
from common.array_types import Array, ArrayLike, compute_dtype, Variables
from common.data import pairs
from common.initialization import initialize
from common.train_state import TrainState
from trnr import adaptation, attenuation, input_pipeline, models
from trnr.patch_set import PatchSet

MODEL_FILE = 'model.safetensors'
PATCH_FILE = 'patches.npz'
RATES = ('graded', 'constant', 'outer')


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All that a run is made of, but its state.

  Attributes:
    description: `config.model`, the arguments of `models.create`.
    network: to train.
    patch_set: patches to learn from, for samplings that do so.
    test_pairs: pictures to score on.
    tx: optimiser.
    schedule: its learning rate by step.
    steps_per_epoch: length of the epochs that schedules count.
    make_batches: opens the stream of batches; takes the number of the first.
    example_names: what a batch is made of; takes its number.
    rng: key of the run.
    config: the config.
  """

  description: dict[str, Any]
  network: models.RestorationNetwork
  patch_set: PatchSet | None
  test_pairs: pairs.PairSource
  tx: optax.GradientTransformation
  schedule: optax.Schedule
  steps_per_epoch: int
  make_batches: Callable[[int], Iterator[Any]]
  example_names: Callable[[int], list[str]]
  rng: Array
  config: ml_collections.ConfigDict

  @property
  def batch_size(self) -> int:
    """Tasks, or pairs, of each step over all devices."""
    block = self.config.sampling
    return block.num_tasks if block.name == 'rcs' else block.batch_size

  def initial_state(self) -> TrainState:
    """The state before the first step; the same for the same seed."""
    return create_train_state(self.rng, self.network, self.tx, self.config)


def published_schedule(
  *,
  learning_rate: float,
  final_learning_rate: float,
  steps_per_epoch: int,
  num_epochs: int,
) -> optax.Schedule:
  """The cosine over epochs of the published program, slips included.

  The rate of an epoch is set after its first step, so that step still has the
  rate of the epoch before; and after `num_epochs` the rate rises again.

  Args:
    learning_rate: of the first epoch.
    final_learning_rate: of epoch `num_epochs`.
    steps_per_epoch: length of an epoch.
    num_epochs: length of the descent.

  Returns:
    A function of the step, for optax.

  Source: Ran et al., the program.
  """

  def schedule(step: ArrayLike) -> Array:
    epoch = jnp.maximum(jnp.asarray(step) - 1, 0) // steps_per_epoch
    wave = 0.5 * (1 + jnp.cos(jnp.pi * epoch / num_epochs))
    return final_learning_rate + (learning_rate - final_learning_rate) * wave

  return schedule


def build(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  network: models.RestorationNetwork | None = None,
  keep_patches: bool = True,
) -> Experiment:
  """Builds what a run needs.

  Args:
    config: as the files in `configs/trnr` build it.
    workdir: folder of the run; the patch analysis is kept there.
    network: of one's own, to train in place of the one that `config.model`
      builds.
    keep_patches: False reads it if it is there, but does not write it.

  Returns:
    The experiment.

  Raises:
    FileNotFoundError: data are absent.
    ValueError: a config value does not fit; names the field.
  """
  sampling = config.sampling.name
  configuration.choice(config, 'sampling.name', input_pipeline.SAMPLINGS)
  configuration.choice(config, 'adaptation.learning_rates', RATES)
  description = config.model.to_dict()
  over_devices = (
    configuration.choice(config, 'train.batch_norm', distributed.STATISTICS)
    == 'global'
  )
  if over_devices and sampling == 'rcs':
    raise ValueError(
      "config.train.batch_norm 'global' does not go with tasks: the statistics "
      'of an inner step are those of its shots'
    )
  if network is None:
    network = models.create(
      **description,
      dtype=compute_dtype(config.train.dtype),
      axis_name=distributed.AXIS_NAME if over_devices else None,
    )
  learn, score = input_pipeline.open_data(**config.data)
  patch_set = None
  if sampling in input_pipeline.FROM_PATCHES:
    patch_set = input_pipeline.load_patches(
      config,
      config.patches.path or pathlib.Path(workdir) / PATCH_FILE,
      keep=keep_patches,
    )
  steps_per_epoch = _steps_per_epoch(config, patch_set)
  schedule = _schedule(config, steps_per_epoch)
  options = config.optimizer.to_dict()
  del options['schedule']
  tx = optimizers.make_optimizer(**options | {'learning_rate': schedule})
  return Experiment(
    description=description,
    network=network,
    patch_set=patch_set,
    test_pairs=score,
    tx=tx,
    schedule=schedule,
    steps_per_epoch=steps_per_epoch,
    make_batches=functools.partial(
      input_pipeline.train_batches, config, network, learn, patch_set
    ),
    example_names=functools.partial(
      input_pipeline.example_names, config, network, learn, patch_set
    ),
    rng=jax.random.key(config.seed),
    config=config,
  )


def create_train_state(
  rng: Array,
  network: models.RestorationNetwork,
  tx: optax.GradientTransformation,
  config: ml_collections.ConfigDict,
) -> TrainState:
  """The state before the first step.

  Args:
    rng: key of the run.
    network: to train.
    tx: optimiser.
    config: its `sampling` and `adaptation` say what is trained beside.

  Returns:
    A state as `trnr.train.make_task_step` describes it.
  """
  rng_network, rng_attenuator, rng_steps = jax.random.split(rng, 3)
  image = jax.ShapeDtypeStruct((1, 32, 32, network.channels), jnp.float32)
  options: dict[str, Any] = {}
  if network.needs_sigma:
    options['sigma'] = jax.ShapeDtypeStruct((1,), jnp.float32)
  variables = initialize(network, rng_network, image, **options)
  weights, rest = train_state.collections_of(variables)
  params: dict[str, Any] = {'network': weights}
  model_state: dict[str, Any] = {'network': rest}
  block = config.adaptation
  if config.sampling.name == 'rcs' and block.learning_rates != 'outer':
    last = block.inner_learning_rate
    if block.learning_rates == 'graded':
      last = block.last_inner_learning_rate
    rates = adaptation.graded_learning_rates(
      network.depths(weights), first=block.inner_learning_rate, last=last
    )
    learned = params if block.learn_rates else model_state
    learned['inner_learning_rates'] = rates
  if config.sampling.name == 'rcs' and block.attenuation_window:
    count = len(jax.tree.leaves(weights))
    attenuator = attenuation.Attenuator().init(
      rng_attenuator, jnp.zeros((count,))
    )
    params['attenuator'] = attenuator['params']
    model_state['attenuator'] = {
      'factors': jnp.ones((block.attenuation_window, count))
    }
  return TrainState.create(
    params=params, model_state=model_state, tx=tx, rng=rng_steps
  )


def network_variables(state: TrainState) -> Variables:
  """What `network.apply` takes; attenuated, if the run attenuates.

  The factors are then their means over the last steps, as in the published
  program.
  """
  weights = state.params['network']
  if 'attenuator' in state.params:
    factors = state.model_state['attenuator']['factors'].mean(0)
    leaves, structure = jax.tree.flatten(weights)
    weights = jax.tree.unflatten(
      structure, [x * factors[i] for i, x in enumerate(leaves)]
    )
  return {'params': weights, **state.model_state['network']}


def exported_variables(state: TrainState) -> Variables:
  """`network_variables`, and the inner learning rates of runs on tasks."""
  variables = dict(network_variables(state))
  for collection in (state.params, state.model_state):
    if 'inner_learning_rates' in collection:
      variables['inner_learning_rates'] = collection['inner_learning_rates']
  return variables


def _steps_per_epoch(
  config: ml_collections.ConfigDict, patch_set: PatchSet | None
) -> int:
  """Length of the epochs that schedules count; 1 where there are no patches."""
  if patch_set is None:
    return 1
  block = config.sampling
  per_step = config.optimizer.schedule.get(
    'patches_per_step', block.num_tasks * block.frequencies
  )
  return max(len(patch_set) // per_step, 1)


def _schedule(
  config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule:
  block = config.optimizer
  options = block.schedule.to_dict()
  if options['kind'] != 'published':
    return optimizers.learning_rate_schedule(
      **options,
      learning_rate=block.learning_rate,
      num_steps=config.train.num_steps,
    )
  if config.sampling.name not in input_pipeline.FROM_PATCHES:
    raise ValueError(
      "config.optimizer.schedule.kind 'published' counts epochs of patches, "
      f'which {config.sampling.name!r} does not have'
    )
  return published_schedule(
    learning_rate=block.learning_rate,
    final_learning_rate=options['final_learning_rate'],
    steps_per_epoch=steps_per_epoch,
    num_epochs=options['num_epochs'],
  )
