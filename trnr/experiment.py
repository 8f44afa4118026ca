"""What a config builds: pictures, network, optimiser, step, first state."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from common import distributed, optimizers, train_state
from common.array_types import Array, ArrayLike, Variables
from common.data import pair_transforms, pairs, pipeline, rain
from common.data.sources import Example
from common.data.transforms import Chain, Transform
from common.train_state import TrainState
from trnr import adaptation, models, patches, tasks

_LOGGER = logging.getLogger(__name__)

MODEL_FILE = 'model.safetensors'
PATCH_FILE = 'patches.npz'
FROM_PATCHES = ('rcs', 'rps')
SAMPLINGS = (*FROM_PATCHES, 'rbs1', 'rbs2')
RATES = ('graded', 'constant', 'outer')


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All that a run is made of, but its state.

  Attributes:
    description: arguments of `models.create`.
    network: to train.
    test_pairs: pictures to score on.
    tx: optimiser.
    schedule: its learning rate by step.
    steps_per_epoch: length of the epochs that schedules count.
    make_batches: opens the stream of batches; takes the first step.
    rng: key of the run.
    config: the config.
  """

  description: dict[str, Any]
  network: models.RestorationNetwork
  test_pairs: pairs.PairSource
  tx: optax.GradientTransformation
  schedule: optax.Schedule
  steps_per_epoch: int
  make_batches: Callable[[int], Iterator[Any]]
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


@dataclasses.dataclass(frozen=True)
class First:
  """The first pairs of another source.

  Attributes:
    source: the other source.
    count: how many.
  """

  source: pairs.PairSource
  count: int

  def __post_init__(self) -> None:
    if not 1 <= self.count <= len(self.source):
      raise ValueError(
        f'num_images = {self.count} must be in 1..{len(self.source)}, the '
        'number of training images'
      )

  @property
  def names(self) -> tuple[str, ...]:
    """Their names."""
    return self.source.names[: self.count]

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> Example:
    return self.source[range(self.count)[index]]


def open_data(
  name: str,
  *,
  train_input: str = '',
  train_target: str = '',
  test_input: str = '',
  test_target: str = '',
  input_pattern: str = r'(.+)\.\w+',
  target_pattern: str = r'(.+)\.\w+',
  num_images: int = 0,
  num_test_images: int = 0,
  grey: bool = False,
  preset: str = 'light',
  rain_seed: int = 0,
) -> tuple[pairs.PairSource, pairs.PairSource]:
  """Opens the pictures of a config's `data` block.

  Args:
    name: 'pairs' (folders of degraded and of clean images), 'clean' (clean
      ones alone, for noise) or 'photos' (embedded, with rendered rain).
    train_input: folder of degraded training images, for 'pairs'.
    train_target: folder of clean training images.
    test_input: folder of degraded test images, for 'pairs'.
    test_target: folder of clean test images.
    input_pattern: see `pairs.paired_folders`.
    target_pattern: see `pairs.paired_folders`.
    num_images: learn from so many pictures, the first ones; 0 takes all.
    num_test_images: score on so many, the first ones; 0 takes all.
    grey: give one channel, for 'clean'.
    preset: of the rain, for 'photos'; see `rain.PRESETS`.
    rain_seed: of the rain.

  Returns:
    Training and test pictures.

  Raises:
    FileNotFoundError: a folder is absent.
    ValueError: a value is not among those above, or files do not pair.
  """
  learn: pairs.PairSource
  score: pairs.PairSource
  if name == 'pairs':
    patterns = {
      'input_pattern': input_pattern,
      'target_pattern': target_pattern,
    }
    _require_paths(name, train_input, train_target, test_input, test_target)
    learn = pairs.paired_folders(train_input, train_target, **patterns)
    score = pairs.paired_folders(test_input, test_target, **patterns)
  elif name == 'clean':
    _require_paths(name, train_target, test_target)
    learn = pairs.clean_folder(train_target, grey=grey)
    score = pairs.clean_folder(test_target, grey=grey)
  elif name == 'photos':
    if preset not in rain.PRESETS:
      raise ValueError(f'preset {preset!r} must be one of {[*rain.PRESETS]}')
    learn, score = (
      rain.WithRain(_photos(split), rain.PRESETS[preset], rain_seed + number)
      for number, split in enumerate(('train', 'test'))
    )
  else:
    raise ValueError(
      f"data set {name!r} must be one of ['pairs', 'clean', 'photos']"
    )
  if num_images:
    learn = First(learn, num_images)
  if num_test_images:
    score = First(score, num_test_images)
  return learn, score


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
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> Experiment:
  """Builds what a run needs.

  Args:
    config: as the files in `configs/trnr` build it.
    workdir: folder of the run; the patch analysis is kept there.

  Returns:
    The experiment.

  Raises:
    FileNotFoundError: data are absent.
    ValueError: a config value does not fit; names the field.
  """
  sampling = config.sampling.name
  if sampling not in SAMPLINGS:
    raise ValueError(
      f'config.sampling.name {sampling!r} must be one of {[*SAMPLINGS]}'
    )
  if config.adaptation.learning_rates not in RATES:
    raise ValueError(
      f'config.adaptation.learning_rates {config.adaptation.learning_rates!r} '
      f'must be one of {[*RATES]}'
    )
  description = config.model.to_dict()
  network = models.create(**description)
  learn, score = open_data(**config.data)
  patch_set = None
  if sampling in FROM_PATCHES:
    path = config.patches.path
    if not path:
      path = pathlib.Path(workdir) / PATCH_FILE
      prepare_patches(config, path)
    patch_set = patches.PatchSet.read(path)
  steps_per_epoch = config.optimizer.schedule.get('steps_per_epoch', 0)
  if not steps_per_epoch and patch_set is not None:
    steps_per_epoch = max(len(patch_set) // config.sampling.frequencies, 1)
  schedule = _schedule(config, steps_per_epoch)
  options = config.optimizer.to_dict()
  del options['schedule']
  tx = optimizers.make_optimizer(**options | {'learning_rate': schedule})
  return Experiment(
    description=description,
    network=network,
    test_pairs=score,
    tx=tx,
    schedule=schedule,
    steps_per_epoch=max(steps_per_epoch, 1),
    make_batches=functools.partial(_batches, config, network, learn, patch_set),
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
  variables = network.lazy_init(rng_network, image, **options)
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
    attenuator = adaptation.Attenuator().init(
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


def _photos(split: Any) -> pairs.PairSource:
  photos = pairs.embedded_photos(split)
  arrays = tuple(photos.values())
  return pairs.ArrayPairs(arrays, arrays, tuple(photos))


def _require_paths(name: str, *paths: str) -> None:
  if not all(paths):
    raise ValueError(
      f'data set {name!r} needs the folders config.data.train_target and '
      'test_target'
      + (', train_input and test_input' if name == 'pairs' else '')
    )


def prepare_patches(
  config: ml_collections.ConfigDict, path: str | pathlib.Path
) -> None:
  """Does the patch analysis of a config, unless the file is there.

  Args:
    config: its `data` and `patches` blocks count, but for `patches.path`.
    path: of the .npz.

  Raises:
    ValueError: as `open_data` and `patches.analyse`.
  """
  if pathlib.Path(path).exists():
    return
  options = config.patches.to_dict()
  del options['path']
  learn, _ = open_data(**config.data)
  patch_set = patches.analyse(learn, **options)
  _LOGGER.info('%s', patch_set.summary())
  patch_set.write(path)


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
  if not steps_per_epoch:
    raise ValueError(
      'config.optimizer.schedule.steps_per_epoch must be positive for '
      f'{config.sampling.name!r}, which has no epochs of its own'
    )
  return published_schedule(
    learning_rate=block.learning_rate,
    final_learning_rate=options['final_learning_rate'],
    steps_per_epoch=steps_per_epoch,
    num_epochs=options['num_epochs'],
  )


def _batches(
  config: ml_collections.ConfigDict,
  network: models.RestorationNetwork,
  learn: pairs.PairSource,
  patch_set: patches.PatchSet | None,
  start_step: int,
) -> Iterator[Any]:
  """Opens the stream of this process's batches."""
  block = config.sampling
  here: dict[str, Any] = {
    'start_step': start_step,
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }
  max_sigma = block.max_sigma if network.needs_sigma else None
  if block.name == 'rcs':
    assert patch_set is not None
    source = tasks.TaskSource(
      patch_set,
      num_tasks=block.num_tasks,
      frequencies=block.frequencies,
      shots=block.shots,
      query_shots=block.query_shots,
      seed=config.seed,
      replace=block.replace,
      max_sigma=max_sigma,
    )
    return tasks.task_iterator(source, **here)
  transforms: list[Transform] = [
    pair_transforms.PairSymmetry(
      pair_transforms.EIGHT_OPERATIONS
      if max_sigma
      else pair_transforms.FOUR_OPERATIONS
    )
  ]
  if max_sigma:
    transforms.append(tasks.AddNoise(max_sigma))
  if block.name == 'rps':
    assert patch_set is not None
    data: pipeline.RandomAccess = tasks.PatchSource(patch_set)
    shuffle = True
  else:
    transforms.insert(0, pair_transforms.PairCrop(config.patches.size))
    data = tasks.in_memory(learn)
    shuffle = block.name == 'rbs2'
    if not shuffle:
      data = tasks.DistinctImages(data, block.batch_size, config.seed)
    elif len(learn) < block.batch_size:
      data = tasks.Repeated(data, -(-block.batch_size // len(learn)))
  return pipeline.train_iterator(
    data,
    Chain(tuple(transforms)),
    batch_size=block.batch_size,
    seed=config.seed,
    shuffle=shuffle,
    device_count=distributed.make_mesh().size,
    **here,
  )
