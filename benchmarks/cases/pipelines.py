"""Batches of training pictures, and what steps wait for them.

  python -m benchmarks.cases.pipelines

prints, for the quickstart of RSD and for CoIC's BRN at its published size, the
share of the time that a trainer waits for data.
"""

import functools
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.peers import pipelines as peer
from benchmarks.side_by_side import Case, Prepared
from coic import train as coic_train
from common import configuration
from common.data import datasets, pair_transforms, pairs, photos, pipeline
from common.data.transforms import Chain
from rsdjax import train as rsd_train

_BATCHES = 16
_CROP = 100
_WORKERS = 2  # Processes of either side.
# The folders live as long as the process.
_FOLDERS: list[tempfile.TemporaryDirectory] = []


def cases() -> Iterator[Case]:
  """Batches of labelled images, and of rainy pairs."""
  crops: tuple[tuple[str, str, Callable], ...] = (
    ('', 'configs/rsd/cifar100.py', peer.RandomResizedCrop),
    (' small', 'configs/rsd/cifar100_small.py', peer.PadCrop),
  )
  for name, config, crop in crops:
    yield Case(
      name=f'pipeline cifar{name}',
      ours=functools.partial(_our_images, config),
      peer=functools.partial(_their_images, config, crop),
      tolerance=0.05,  # They draw on their own.
      target=0.5,
    )
  yield Case(
    name='pipeline deraining',
    ours=_our_pairs,
    peer=_their_pairs,
    tolerance=0.25,  # They draw on their own, and 12 crops are few.
    target=0.5,
  )


def waiting_share(
  loop: Any, state: Any, *, num_steps: int, warmup: int = 2
) -> tuple[float, float]:
  """How long a trainer waits for data.

  Args:
    loop: of a trainer, with its step and its batches.
    state: the first one.
    num_steps: that count.
    warmup: steps before them.

  Returns:
    The share in [0, 1], and the seconds of a step.
  """
  stream = iter(loop.make_batches(0, 0))
  waited = start = 0.0
  for step in range(warmup + num_steps):
    if step == warmup:
      waited, start = 0.0, time.perf_counter()
    asked = time.perf_counter()
    batch = next(stream)
    waited += time.perf_counter() - asked
    state, metrics = loop.step_fn(state, batch, *loop.constants)
    jax.block_until_ready(metrics)
  elapsed = time.perf_counter() - start
  return waited / elapsed, elapsed / num_steps


def main() -> None:
  """Prints the shares."""
  config = configuration.load(
    'configs/rsd/digits.py',
    {'teacher.num_steps': 20, 'train.pictures': False},
  )
  teacher = rsd_train.train_teacher(config, _new_folder())
  _, loop, state = rsd_train.prepare(config, teacher)
  _print('rsd digits', *waiting_share(loop, state, num_steps=100))

  one = {'name': 'pairs', 'folder': str(_written_pairs()), 'split': 'train'}
  for stage, plain_steps in (('plain', 100), ('coi-m', 0)):
    config = configuration.load('configs/coic/mixed.py:brn')
    with config.unlocked():
      config.data.train_sets = {'one': one}
      config.data.test_sets = {'one': one}
      config.train.plain_steps = plain_steps
      config.train.pictures = False
    _, loop, state = coic_train.prepare(config)
    share = waiting_share(loop, state, num_steps=2, warmup=1)
    _print(f'coic mixed brn {stage}', *share)


def _print(name: str, share: float, seconds: float) -> None:
  print(f'{name}: waits {share:.2%} of {seconds * 1e3:.1f} ms', flush=True)


def _prepared(
  stream: Iterator[Mapping[str, Any]], *, channels_last: bool
) -> Prepared:
  """Fetches batches from an open stream; values are rough."""

  def run() -> None:
    for _ in itertools.islice(stream, _BATCHES):
      pass

  def values() -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for key, value in next(stream).items():
      array = np.asarray(value)
      if array.ndim == 4:
        if not channels_last:
          array = np.moveaxis(array, 1, -1)
        assert array.dtype == np.uint8, array.dtype
        found[f'{key} range'] = [array.min(), array.max()]
        found[f'{key} mean'] = array.mean()
      found[f'{key} shape'] = array.shape
    return found

  return Prepared(run, values)


def _labelled() -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (8000, 32, 32, 3), np.uint8)
  return images, rng.integers(0, 100, 8000)


def _our_images(path: str) -> Prepared:
  images, labels = _labelled()
  file = _new_folder() / 'cifar100.npz'
  np.savez(
    file, x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9]
  )
  config = configuration.load(path, {'data.path': str(file)})
  dataset = datasets.classification(**config.data)
  stream = pipeline.train_iterator(
    dataset.train,
    dataset.train_transform,
    batch_size=128,
    seed=0,
    batch_transform=dataset.batch_transform,
    num_workers=_WORKERS,
  )
  return _prepared(stream, channels_last=True)


def _their_images(path: str, crop: Callable[[int], Any]) -> Prepared:
  size = configuration.load(path).data.image_size
  dataset = peer.Labelled(*_labelled(), crop(size))
  stream = peer.endless(dataset, batch_size=128, num_workers=_WORKERS)
  return _prepared(stream, channels_last=False)


def _our_pairs() -> Prepared:
  root = _written_pairs()
  transform = Chain(
    (
      pair_transforms.PairCrop(_CROP),
      pair_transforms.PairSymmetry(pair_transforms.COIC_OPERATIONS),
    )
  )
  source = pairs.paired_folders(root / 'train/rain', root / 'train/norain')
  stream = pipeline.train_iterator(
    source, transform, batch_size=12, seed=0, num_workers=_WORKERS
  )
  return _prepared(stream, channels_last=True)


def _their_pairs() -> Prepared:
  root = _written_pairs()
  dataset = peer.RainyPairs(root / 'train/rain', root / 'train/norain', _CROP)
  stream = peer.endless(dataset, batch_size=12, num_workers=_WORKERS)
  return _prepared(stream, channels_last=False)


@functools.cache
def _written_pairs(count: int = 96) -> pathlib.Path:
  """Parts of photos of 321 x 481 pixels, with and without bright noise."""
  root = _new_folder()
  rng = np.random.default_rng(0)
  large = [
    photo
    for photo in photos.embedded_photos().values()
    if photo.shape[0] >= 321 and photo.shape[1] >= 481
  ]
  for folder in ('rain', 'norain'):
    (root / 'train' / folder).mkdir(parents=True)
  for number in range(count):
    photo = large[number % len(large)]
    top = int(rng.integers(photo.shape[0] - 320))
    left = int(rng.integers(photo.shape[1] - 480))
    clean = photo[top : top + 321, left : left + 481]
    drops = rng.random((321, 481, 1)) < 0.05
    rainy = np.where(drops, 255 - (255 - clean) // 2, clean)
    for folder, image in (('rain', rainy), ('norain', clean)):
      path = root / 'train' / folder / f'{number:03}.png'
      Image.fromarray(image.astype(np.uint8)).save(path)
  return root


def _new_folder() -> pathlib.Path:
  _FOLDERS.append(tempfile.TemporaryDirectory())
  return pathlib.Path(_FOLDERS[-1].name)


if __name__ == '__main__':
  main()
