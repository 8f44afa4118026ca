"""What a config builds: pairs, networks, optimiser, first state."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from coic import evaluate, models, rain_kernels, schedules
from coic.encoder import Encoder
from coic.negatives import RainBank
from common import (
  checkpoints,
  configuration,
  distributed,
  optimizers,
  train_state,
)
from common.array_types import Array, compute_dtype, PyTree
from common.data import (
  derain_sets,
  mixture,
  pair_transforms,
  pairs,
  pipeline,
)
from common.data.pairs import PairSource
from common.data.transforms import Chain, Transform
from common.initialization import initialize
from common.train_state import TrainState

# Modules that the first stage of training leaves alone, by name.
_LATE_MODULES = {'encoder', 'generator', 'context'}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All that a run is made of, but its state.

  Attributes:
    model: arguments of `models.create`.
    network: to train.
    encoder: to train beside it.
    train_pairs: what to learn from, in endless epochs.
    test_sets: what to score on, by name.
    tx: optimiser.
    config: the config.
  """

  model: dict[str, Any]
  network: models.Backbone
  encoder: Encoder
  train_pairs: mixture.Epochs
  test_sets: Mapping[str, PairSource]
  tx: optax.GradientTransformation
  config: ml_collections.ConfigDict

  def initial_state(self, device_count: int = 1) -> TrainState:
    """The state before the first step; the same for the same seed.

    Args:
      device_count: number of devices, which may each have a rain bank.

    Returns:
      A state as `coic.train.make_train_step` describes it.
    """
    block = self.config.contrast
    crop = self.config.data.crop
    rng_network, rng_encoder, rng_steps = jax.random.split(
      jax.random.key(self.config.seed), 3
    )
    image = jax.ShapeDtypeStruct((1, crop, crop, 3), jnp.float32)
    params, model_state = {}, {}
    for name, module, rng in (
      ('network', self.network, rng_network),
      ('encoder', self.encoder, rng_encoder),
    ):
      params[name], model_state[name] = train_state.collections_of(
        initialize(module, rng, image)
      )
    if path := self.config.model.weights:
      variables = evaluate.load_derainer(path).network_variables
      expected = {'params': params['network'], **model_state['network']}
      checkpoints.require_same_variables(variables, expected, path)
      params['network'], model_state['network'] = train_state.collections_of(
        variables
      )
    # Copies, since the state's memory is used again.
    model_state['momentum_encoder'] = jax.tree.map(
      jnp.copy, {'params': params['encoder'], **model_state['encoder']}
    )
    if block.rain_bank:
      banks = device_count if block.rain_search == 'per_device' else 1
      empty = RainBank.empty(block.rain_bank, (crop, crop, 3))
      model_state['rain'] = {
        'banks': jax.tree.map(lambda x: jnp.stack([x] * banks), empty)
      }
    return TrainState.create(
      params=params, model_state=model_state, tx=self.tx, rng=rng_steps
    )

  def batches(
    self, position: int, first_step: int | None = None
  ) -> Iterator[pipeline.Batch]:
    """The stream of this process's batches.

    Those of the second stage have the whole images too.

    Args:
      position: number of the first batch.
      first_step: steps done before it, `position` by default.
    """
    if first_step is None:
      first_step = position
    train, data = self.config.train, self.config.data
    switch = train.plain_steps if self.network.modulated else train.num_steps
    crop: list[Transform] = [
      pair_transforms.PairCrop(data.crop),
      pair_transforms.PairSymmetry(pair_transforms.COIC_OPERATIONS),
    ]
    whole = pair_transforms.WithWholeImages(data.crop, data.antialias)

    def stream(
      transforms: list[Transform], start: int
    ) -> Iterator[pipeline.Batch]:
      return pipeline.train_iterator(
        self.train_pairs,
        Chain(tuple(transforms)),
        batch_size=train.batch_size,
        seed=self.config.seed,
        shuffle=False,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
      )

    remaining = max(switch - first_step, 0)
    if remaining:
      yield from itertools.islice(stream(crop, position), remaining)
    yield from stream([whole, *crop], position + remaining)

  def example_names(self, position: int) -> list[str]:
    """What the batch of a number is made of, as set/name."""
    size = self.config.train.batch_size
    return [self.train_pairs.name(position * size + i) for i in range(size)]

  def derainer(self, state: TrainState) -> evaluate.Derainer:
    """The derainer of a state: modulated once the second stage has begun."""
    state = jax.device_get(state.replace(opt_state=()))
    network_variables = {
      'params': state.params['network'],
      **state.model_state['network'],
    }
    modulated = self.network.modulated and (
      int(state.step) > self.config.train.plain_steps
    )
    return evaluate.Derainer(
      self.network,
      network_variables,
      self.encoder if modulated else None,
      state.model_state['momentum_encoder'] if modulated else None,
    )

  def description(self, derainer: evaluate.Derainer) -> dict[str, Any]:
    """What builds a derainer again, see `evaluate.load_derainer`."""
    if derainer.encoder is None:
      return {'model': self.model}
    return {'model': self.model, 'encoder': self.config.encoder.to_dict()}


def build(config: ml_collections.ConfigDict) -> Experiment:
  """Builds what a run needs.

  Args:
    config: as the files in `configs/coic` build it.

  Returns:
    The experiment.

  Raises:
    FileNotFoundError: data or weights are absent.
    ValueError: a config value does not fit; names the field.
  """
  configuration.choice(config, 'contrast.rain_search', distributed.STATISTICS)
  over_devices = (
    configuration.choice(config, 'train.batch_norm', distributed.STATISTICS)
    == 'global'
  )
  model = config.model.to_dict()
  del model['weights']
  # Not part of what describes the network: its weights have them.
  start: dict[str, Any] = {}
  if path := model.pop('rain_kernels', ''):
    start['dictionary_init'] = rain_kernels.read_dictionary(path)
  options: dict[str, Any] = {
    'axis_name': distributed.AXIS_NAME if over_devices else None,
    'dtype': compute_dtype(config.train.dtype),
  }
  return Experiment(
    model=model,
    network=models.create(**model, **start, **options),
    encoder=Encoder(**config.encoder, **options),
    train_pairs=mix(config),
    test_sets=open_sets(
      config.data.test_sets, count=config.data.num_test_images
    ),
    tx=make_optimizer(config),
    config=config,
  )


def open_sets(
  sets: ml_collections.ConfigDict, *, count: int = 0, in_memory: bool = False
) -> dict[str, PairSource]:
  """Opens the sets of a config, by name.

  Args:
    sets: for each set a block of the arguments of `derain_sets.open_set`; a
      split of '' is none.
    count: take so many pairs of each, the first ones; 0 takes all.
    in_memory: read all files at once.

  Returns:
    Sources of pairs.

  Raises:
    FileNotFoundError: a set is not where it should be.
    ValueError: there are no sets, or as `derain_sets.open_set`.
  """
  if not sets:
    raise ValueError('config.data.train_sets and test_sets must name a set')
  opened: dict[str, PairSource] = {}
  for name, options in sets.items():
    options = options.to_dict()
    split = options.pop('split') or None
    source = derain_sets.open_set(**options, split=split)
    source = pairs.first(source, count)
    opened[name] = pairs.in_memory(source) if in_memory else source
  return opened


def mix(config: ml_collections.ConfigDict) -> mixture.Epochs:
  """Opens and mixes the training sets of a config.

  Args:
    config: its `data` block says how.

  Returns:
    Endless epochs of pairs.

  Raises:
    FileNotFoundError: as `open_sets`.
    ValueError: as `open_sets` and `mixture.mix`.
  """
  block = config.data
  sets = open_sets(
    block.train_sets, count=block.num_images, in_memory=block.in_memory
  )
  options = {
    'seed': config.seed,
    'batch_size': config.train.batch_size,
    'min_size': block.crop,
    'redraw': block.redraw,
  }
  if block.real_sets:
    real = {name: sets.pop(name) for name in block.real_sets}
    return mixture.balanced_with(real, sets, **options)
  weights = block.weights.to_dict() or None
  return mixture.mix(sets, weights=weights, **options)


def make_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """The optimiser of network and encoder together.

  Two groups share the learning rates. The generators and context branches of
  the network and all of the encoder are left alone in the first stage of
  training: not even their moments' decay is counted.

  Args:
    config: its `optimizer` and `train` blocks.

  Returns:
    An optax gradient transformation of {'network': ..., 'encoder': ...}.

  Raises:
    ValueError: unknown optimiser or schedule.

  Differs from the reference: IDT's context branches are in the group of the
  rest of the network there; its optimiser leaves them alone all the same
  while they have no gradient.
  """
  options = config.optimizer.to_dict()
  schedule = schedules.make_schedule(
    **options.pop('schedule'),
    learning_rate=options.pop('learning_rate'),
    num_steps=config.train.num_steps,
  )
  late_decay = options.pop('late_weight_decay')
  clip_norm = options.pop('clip_norm')
  # The rate is the last factor, the same for both groups.
  early = optimizers.make_optimizer(**options, learning_rate=1.0)
  late = optimizers.make_optimizer(
    **options | {'weight_decay': late_decay},
    learning_rate=1.0,
    first_update=config.train.plain_steps,
  )
  groups = {
    'early': early,
    'late': late,
    'frozen': optax.set_to_zero(),
  }
  frozen = config.train.freeze_network

  def label(path: tuple[Any, ...], leaf: Array) -> str:
    del leaf
    names = {key.key for key in path}
    if frozen and 'network' in names:
      return 'frozen'
    return 'late' if names & _LATE_MODULES else 'early'

  def labels(params: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(label, params)

  clip = []
  if clip_norm:
    limit = optimizers.clip_by_global_norm(clip_norm)
    clip = [optax.masked(limit, {'network': True, 'encoder': False})]
  return optax.chain(
    *clip,
    optax.partition(groups, labels),
    optax.scale_by_schedule(optimizers.computed_once(schedule)),
  )
