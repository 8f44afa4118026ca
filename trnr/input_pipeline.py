"""From a config to its pictures, their patch analysis, and a run's batches."""

import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from common import distributed
from common.data import derain_sets, pair_transforms, pairs, pipeline
from common.data.transforms import Chain, Transform
from trnr import models, patches, sources, tasks
from trnr.patch_set import PatchSet, read_folders

_LOGGER = logging.getLogger(__name__)

FROM_PATCHES = ('rcs', 'rps')
SAMPLINGS = (*FROM_PATCHES, 'rbs1', 'rbs2')
_MOST_IN_MEMORY = 1000  # Pictures that are decoded once and kept.


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
  num_held_out: int = 0,
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
    num_held_out: for want of test folders, test on so many of the training
      pictures, the last ones, which are then not learned from.
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
    _require_paths(train_input=train_input, train_target=train_target)
    learn = score = pairs.paired_folders(train_input, train_target, **patterns)
    if not num_held_out:
      _require_paths(test_input=test_input, test_target=test_target)
      score = pairs.paired_folders(test_input, test_target, **patterns)
  elif name == 'clean':
    _require_paths(train_target=train_target)
    learn = score = pairs.clean_folder(train_target, grey=grey)
    if not num_held_out:
      _require_paths(test_target=test_target)
      score = pairs.clean_folder(test_target, grey=grey)
  elif name == 'photos':
    learn, score = (
      derain_sets.rainy_photos(split=split, preset=preset, rain_seed=rain_seed)
      for split in ('train', 'test')
    )
  else:
    raise ValueError(
      f"data set {name!r} must be one of ['pairs', 'clean', 'photos']"
    )
  if num_held_out:
    if test_input or test_target or name == 'photos':
      raise ValueError('config.data.num_held_out is for want of test pictures')
    _require_count(num_held_out, len(learn) - 1, 'num_held_out')
    kept = len(learn) - num_held_out
    score = pairs.Part(learn, range(kept, len(learn)))
    learn = pairs.Part(learn, range(kept))
  if num_images:
    _require_count(num_images, len(learn), 'num_images')
    learn = pairs.Part(learn, range(num_images))
  if num_test_images:
    _require_count(num_test_images, len(score), 'num_test_images')
    score = pairs.Part(score, range(num_test_images))
  return learn, score


def load_patches(
  config: ml_collections.ConfigDict,
  path: str | pathlib.Path,
  *,
  keep: bool = True,
) -> PatchSet:
  """Reads the patches of a config, and makes them first if need be.

  Args:
    config: its `data` and `patches` blocks count, but for `patches.path`.
    path: a .npz, which is written unless it is there, or a folder of the
      published layout (of one split).
    keep: False writes nothing.

  Returns:
    The patches.

  Raises:
    ValueError: as `open_data` and `patches.analyse`, or a file is damaged.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    return read_folders(path, grey=config.model.get('channels', 3) == 1)
  if path.exists():
    return PatchSet.read(path)
  options = config.patches.to_dict()
  del options['path']
  learn, _ = open_data(**config.data)
  patch_set = patches.analyse(learn, **options)
  _LOGGER.info('%s', patch_set.summary())
  if keep and jax.process_index() == 0:
    patch_set.write(path)
  return patch_set


def train_batches(
  config: ml_collections.ConfigDict,
  network: models.RestorationNetwork,
  learn: pairs.PairSource,
  patch_set: PatchSet | None,
  start_step: int,
) -> Iterator[Any]:
  """Opens the stream of this process's batches.

  Args:
    config: of the run.
    network: to train; one with a noise map gets clean patches with noise.
    learn: pictures to learn from.
    patch_set: their patches, for the samplings in `FROM_PATCHES`.
    start_step: number of the first batch.

  Returns:
    Iterator over batches as `train.make_task_step` takes them for 'rcs', else
    `train.make_batch_step`.

  Raises:
    ValueError: the patch set is too small for the tasks.
  """
  block = config.sampling
  here: dict[str, Any] = {
    'start_step': start_step,
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }
  max_sigma = block.max_sigma if network.needs_sigma else None
  if block.name == 'rcs':
    source = _task_source(config, network, patch_set)
    return tasks.task_iterator(source, **here)
  transforms: list[Transform] = [
    pair_transforms.PairSymmetry(
      pair_transforms.EIGHT_OPERATIONS
      if network.needs_sigma
      else pair_transforms.FOUR_OPERATIONS
    )
  ]
  if max_sigma is not None:
    transforms.append(sources.AddNoise(max_sigma))
  if block.name == 'rps':
    assert patch_set is not None
    data: pipeline.RandomAccess = sources.PatchSource(patch_set)
    shuffle = True
  else:
    transforms.insert(0, pair_transforms.PairCrop(config.patches.size))
    data = learn
    if len(learn) <= _MOST_IN_MEMORY:
      data = sources.in_memory(learn)
    shuffle = block.name == 'rbs2'
    if not shuffle:
      data = sources.DistinctImages(data, block.batch_size, config.seed)
    elif len(learn) < block.batch_size:
      data = sources.Repeated(data, -(-block.batch_size // len(learn)))
  return pipeline.train_iterator(
    data,
    Chain(tuple(transforms)),
    batch_size=block.batch_size,
    seed=config.seed,
    shuffle=shuffle,
    device_count=distributed.make_mesh().size,
    **here,
  )


def example_names(
  config: ml_collections.ConfigDict,
  network: models.RestorationNetwork,
  learn: pairs.PairSource,
  patch_set: PatchSet | None,
  position: int,
) -> list[str]:
  """What a batch of `train_batches` is made of.

  Args:
    config: of the run.
    network: see `train_batches`, as for the next two.
    learn: pictures to learn from.
    patch_set: their patches.
    position: number of the batch.

  Returns:
    For each row a picture, a patch, or the patches of a task.
  """
  block = config.sampling
  if block.name == 'rcs':
    source = _task_source(config, network, patch_set)
    first = position * block.num_tasks
    return [source.name(first + i) for i in range(block.num_tasks)]
  if block.name in ('rps', 'rbs2'):
    # A small set comes several times.
    count = len(learn)
    if count < block.batch_size:
      count *= -(-block.batch_size // count)
    if block.name == 'rps':
      assert patch_set is not None
      count = len(patch_set)
    numbers = pipeline.example_numbers(
      count,
      position=position,
      batch_size=block.batch_size,
      seed=config.seed,
      device_count=distributed.make_mesh().size,
    )
    if block.name == 'rps':
      return [f'patch {i}' for i in numbers]
    return [learn.names[i % len(learn)] for i in numbers]
  images = sources.DistinctImages(learn, block.batch_size, config.seed)
  first = position * block.batch_size
  return [
    learn.names[images.number(first + i)] for i in range(block.batch_size)
  ]


def _task_source(
  config: ml_collections.ConfigDict,
  network: models.RestorationNetwork,
  patch_set: PatchSet | None,
) -> tasks.TaskSource:
  assert patch_set is not None
  block = config.sampling
  return tasks.TaskSource(
    patch_set,
    num_tasks=block.num_tasks,
    frequencies=block.frequencies,
    shots=block.shots,
    query_shots=block.query_shots,
    seed=config.seed,
    replace=block.replace,
    max_sigma=block.max_sigma if network.needs_sigma else None,
  )


def _require_paths(**folders: str) -> None:
  for name, folder in folders.items():
    if not folder:
      raise ValueError(f'config.data.{name} must name a folder')


def _require_count(count: int, most: int, name: str) -> None:
  if not 1 <= count <= most:
    raise ValueError(
      f'config.data.{name} = {count} must be in 1..{most}; there are not more '
      'pictures'
    )
