"""From a source of examples to batches of NumPy arrays, for any data set.

A source is anything with a length and random access to dicts of arrays. The
order of examples and all random numbers follow from the seed and the position
in the stream alone. Neither the number of processes, of threads or of workers
nor the step at which the stream was entered changes a batch.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grain
import jax
import numpy as np
from absl import flags

from common.data.sources import Batch, Example


class RandomAccess(Protocol):
  """Examples by index, 0..len-1."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


def train_iterator(
  source: RandomAccess,
  transform: Callable[[Example, np.random.Generator], Example],
  *,
  batch_size: int,
  seed: int,
  shuffle: bool = True,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  batch_transform: Callable[[Batch, np.random.Generator], Batch] | None = None,
  device_count: int | None = None,
  repeats: int = 1,
  num_threads: int | None = None,
  num_workers: int = 0,
) -> Iterator[Batch]:
  """An endless stream of augmented batches.

  Every epoch has its own order, with `shuffle`, and drops the examples that do
  not fill a batch. Batch s of the stream is the same for any number of
  processes, of which number p of P yields rows p*b/P..(p+1)*b/P-1. To resume a
  run, pass the number of batches that it has consumed as `start_step`.

  With `repeats` = r > 1 (repeated augmentation), an epoch has as many rows as
  without, but they are r copies each of the first 1/r of its examples. Every
  copy is augmented by itself, and the copies of an example follow each other
  over the devices of a batch.

  With `num_workers` > 0 the work is done in that many child processes. These
  import the main module, so a script must guard its entry with
  `if __name__ == '__main__'`, and source and transforms must be picklable.
  The stream has a `close()` that ends threads and workers at once.

  Args:
    source: the training examples.
    transform: applied to each example, with a generator of its own.
    batch_size: examples in a batch over all processes.
    seed: of order and augmentation, >= 0.
    shuffle: give every epoch its own order; sources that draw their elements
      themselves are read as they come.
    start_step: number of the first batch, >= 0.
    process_index: number of this process, in 0..process_count-1.
    process_count: number of processes that share each batch.
    batch_transform: applied to the rows of each device, with a generator of
      its own.
    device_count: number of devices of all processes; None means one for each
      process. Only matters to `batch_transform` and `repeats`.
    repeats: how many copies of an example an epoch has, >= 1.
    num_threads: batches prepared at the same time (in each worker); 0 prepares
      each when it is asked for. None means 2, and 0 in workers, each of which
      has one batch in work and one more ready as it is: threads would hold five
      more.
    num_workers: child processes; 0 stays in this one.

  Returns:
    Iterator over dicts of arrays [batch_size / process_count, ...].

  Raises:
    ValueError: the batch is larger than the data set or does not divide
      evenly, or there are no repeats. Errors of source and transforms come out
      of the iterator as they are.

  Source: of the repeats, Hoffer et al., "Augment Your Batch: Improving
  Generalization Through Instance Repetition", CVPR 2020, as timm has it.
  """
  device_count = process_count if device_count is None else device_count
  _check_shares(batch_size, process_index, process_count, device_count)
  steps_per_epoch = len(source) // batch_size
  if steps_per_epoch == 0:
    raise ValueError(
      f'a batch of {batch_size} is larger than the data set of {len(source)} '
      'examples'
    )
  if repeats < 1:
    raise ValueError(f'repeats = {repeats} must be at least 1')
  order_seed, example_seed, batch_seed = (
    int(s) for s in np.random.SeedSequence(seed).generate_state(3)
  )
  # `MapDataset.source` counts bytes and seconds of every read, which takes long
  # where images are small.
  data = grain.MapDataset.range(len(source)).map(source.__getitem__)
  if shuffle:
    data = data.shuffle(order_seed)
  if repeats > 1:
    data = _Repeated(data, repeats, batch_size, device_count)
  data = data[: steps_per_epoch * batch_size]
  data = data.random_map(transform, seed=example_seed)
  data = data.batch(batch_size // device_count)
  if batch_transform is not None:
    data = data.random_map(batch_transform, seed=batch_seed)
  data = data.batch(device_count // process_count, batch_fn=_concatenate)
  # All of the above numbers its elements through the epochs, over all
  # processes; only from here on is anything left to the others.
  data = data[process_index::process_count].repeat()[start_step:]
  if num_threads is None:
    num_threads = 0 if num_workers else 2
  stream = data.to_iter_dataset(_read_options(num_threads))
  if num_workers:
    stream = stream.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=num_workers),
      worker_init_fn=_end_with_parent,
    )
    # Grain reads a flag when it starts workers, which fails in programs that
    # have no absl flags.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
  return iter(stream)


def example_numbers(
  num_examples: int,
  *,
  position: int,
  batch_size: int,
  seed: int,
  device_count: int = 1,
  repeats: int = 1,
) -> list[int]:
  """The examples of a batch of `train_iterator`, without reading them.

  Args:
    num_examples: length of the source, which is shuffled.
    position: number of the batch.
    batch_size: see `train_iterator`, as for the others.
    seed: of the order.
    device_count: of all processes.
    repeats: copies of an example.

  Returns:
    Their numbers in the source, in the order of the rows of the whole batch.
  """
  stream = train_iterator(
    _Numbers(num_examples),
    lambda example, rng: example,
    batch_size=batch_size,
    seed=seed,
    start_step=position,
    device_count=device_count,
    repeats=repeats,
    num_threads=0,
  )
  return next(stream)['number'].tolist()


def evaluation_batches(
  source: RandomAccess,
  transform: Callable[[Example], Example],
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
) -> Iterator[Batch]:
  """All examples once, in order, in batches of one size.

  Each batch has a `mask`: 1 for an example, 0 for padding (copies of the last
  example at the end). Summed over all batches of all processes, the mask is
  the number of examples.

  Args:
    source: the examples.
    transform: applied to each example.
    batch_size: examples in a batch over all processes.
    process_index: number of this process, in 0..process_count-1.
    process_count: number of processes that share each batch.
    num_threads: batches prepared at the same time; 0 prepares each when it is
      asked for.

  Returns:
    Iterator over ceil(len(source) / batch_size) dicts of arrays [batch_size /
    process_count, ...] with `mask`, float32 [batch_size / process_count].

  Raises:
    ValueError: the source is empty, or the batch does not divide evenly.
  """
  _check_shares(batch_size, process_index, process_count, process_count)
  num_examples = len(source)
  if num_examples == 0:
    raise ValueError('there are no examples to evaluate on')

  def masked_example(index: int) -> Example:
    example = transform(source[min(index, num_examples - 1)])
    mask = np.asarray(index < num_examples, np.float32)
    return {**example, 'mask': mask}

  num_batches = -(-num_examples // batch_size)
  data = grain.MapDataset.range(num_batches * batch_size).map(masked_example)
  data = data.batch(batch_size // process_count)[process_index::process_count]
  return iter(data.to_iter_dataset(_read_options(num_threads)))


class _Numbers:
  """Examples that are only their own numbers."""

  def __init__(self, length: int):
    self._length = length

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    return {'number': np.asarray(index)}


class _Repeated(grain.MapDataset):
  """Copies of the first elements, dealt out to the devices of each batch."""

  def __init__(
    self,
    parent: grain.MapDataset,
    repeats: int,
    batch_size: int,
    device_count: int,
  ):
    super().__init__(parent)
    self._repeats = repeats
    self._batch_size = batch_size
    self._device_count = device_count

  def __len__(self) -> int:
    return len(self._parent) // self._batch_size * self._batch_size

  def __getitem__(self, index: int | slice) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    epoch, place = divmod(index, len(self))
    step, row = divmod(place, self._batch_size)
    device, turn = divmod(row, self._batch_size // self._device_count)
    copy = step * self._batch_size + turn * self._device_count + device
    return self._parent[epoch * len(self._parent) + copy // self._repeats]


def _check_shares(
  batch_size: int, process_index: int, process_count: int, device_count: int
) -> None:
  if batch_size < 1:
    raise ValueError(f'batch_size = {batch_size} must be positive')
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index = {process_index} must be in 0..{process_count - 1}'
    )
  if device_count % process_count:
    raise ValueError(
      f'{device_count} devices do not divide evenly into {process_count} '
      'processes'
    )
  if batch_size % device_count:
    raise ValueError(
      f'a batch of {batch_size} does not divide evenly into {device_count} '
      f'devices of {process_count} processes'
    )


def _read_options(num_threads: int) -> grain.ReadOptions:
  # One batch in work for each thread and one more ready.
  return grain.ReadOptions(
    num_threads=num_threads,
    prefetch_buffer_size=num_threads + 1 if num_threads else 0,
  )


def _end_with_parent(worker_index: int, worker_count: int) -> None:
  """Ends this worker when its parent is killed; it would wait for ever."""
  del worker_index, worker_count
  parent = multiprocessing.parent_process()

  def wait() -> None:
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def _concatenate(parts: list[Batch]) -> Batch:
  if len(parts) == 1:
    return parts[0]
  return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
