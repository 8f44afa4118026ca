import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from common.data import file_sources, pipeline, sources, transforms

NUM_EXAMPLES = 23
BATCH = 8  # Two batches and seven left over in each epoch.


class Numbers:
  """Example i holds the number i."""

  def __init__(self, n=NUM_EXAMPLES):
    self.n = n

  def __len__(self):
    return self.n

  def __getitem__(self, index):
    assert 0 <= index < self.n
    return {'number': np.int64(index)}


def _draw(example, rng):
  return {**example, 'draw': rng.random()}


def _draw_for_batch(batch, rng):
  return {**batch, 'batch_draw': np.full(len(batch['number']), rng.random())}


def _batches(n, **options):
  options = {'batch_size': BATCH, 'seed': 0, 'num_threads': 0} | options
  stream = pipeline.train_iterator(Numbers(), _draw, **options)
  batches = list(itertools.islice(stream, n))
  stream.close()
  return batches


def _assert_equal(actual, expected):
  assert len(actual) == len(expected)
  for a, b in zip(actual, expected, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], strict=True)


def test_batches_are_stacked_arrays():
  (batch,) = _batches(1)
  assert {key: x.shape for key, x in batch.items()} == {
    'number': (BATCH,),
    'draw': (BATCH,),
  }
  assert batch['number'].dtype == np.int64


def test_each_epoch_is_a_new_order_without_repeats():
  batches = _batches(40)
  epochs = [
    tuple(np.concatenate([b['number'] for b in batches[i : i + 2]]))
    for i in range(0, 40, 2)
  ]
  for epoch in epochs:
    assert len(set(epoch)) == 16  # 7 of the 23 are dropped.
  assert len(set(epochs)) == 20
  # It is not always the same ones that are dropped.
  assert set().union(*epochs) == set(range(NUM_EXAMPLES))


def test_the_same_example_draws_anew_in_each_epoch():
  draws = np.concatenate([b['draw'] for b in _batches(40)])
  assert len(set(draws)) == len(draws)
  assert draws.mean() == pytest.approx(0.5, abs=0.06)


def test_seed_decides():
  _assert_equal(_batches(4), _batches(4))
  other = _batches(4, seed=1)
  for key in ('number', 'draw'):
    assert not np.array_equal(_batches(4)[0][key], other[0][key])


def test_seeds_do_not_share_epochs():
  orders = {
    tuple(b['number']) for seed in range(5) for b in _batches(20, seed=seed)
  }
  assert len(orders) == 100


@pytest.mark.parametrize('num_threads', [1, 3])
def test_threads_do_not_change_the_stream(num_threads):
  _assert_equal(_batches(9, num_threads=num_threads), _batches(9))


@pytest.mark.parametrize('start_step', [1, 2, 3, 7])  # In and between epochs.
@pytest.mark.parametrize('num_threads', [0, 2])
def test_resuming_continues_the_stream(start_step, num_threads):
  resumed = _batches(5, start_step=start_step, num_threads=num_threads)
  _assert_equal(resumed, _batches(start_step + 5)[start_step:])


@pytest.mark.parametrize('process_count', [2, 4])
@pytest.mark.parametrize('start_step', [0, 3])
def test_processes_share_each_batch(process_count, start_step):
  options = {
    'start_step': start_step,
    'batch_transform': _draw_for_batch,
    'device_count': 4,
  }
  shares = [
    _batches(5, process_index=p, process_count=process_count, **options)
    for p in range(process_count)
  ]
  whole = [
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in zip(*shares, strict=True)
  ]
  _assert_equal(whole, _batches(5, **options))


def test_batch_transform_draws_once_for_each_device():
  batches = _batches(6, batch_transform=_draw_for_batch, device_count=2)
  draws = np.stack([b['batch_draw'] for b in batches]).reshape(6, 2, BATCH // 2)
  assert (draws == draws[..., :1]).all()
  assert len(set(draws[..., 0].ravel())) == 12
  of_examples = {draw for b in batches for draw in b['draw']}
  assert of_examples.isdisjoint(draws.ravel())
  # It comes after the transform of examples, and changes nothing of it.
  for batch, plain in zip(batches, _batches(6), strict=True):
    np.testing.assert_array_equal(batch['draw'], plain['draw'])


def test_repeats_deal_copies_out_to_the_devices():
  """Example by example, as timm's sampler does it for four processes."""
  order = np.concatenate([b['number'] for b in _batches(2)])
  batches = _batches(2, repeats=3, device_count=4)
  copies = np.repeat(order, 3)[: 2 * BATCH]
  for step, batch in enumerate(batches):
    dealt = [copies[step * BATCH :][d:BATCH:4] for d in range(4)]
    np.testing.assert_array_equal(batch['number'], np.concatenate(dealt))
  draws = np.concatenate([b['draw'] for b in batches])
  assert len(set(draws)) == len(draws)


def test_repeats_give_each_epoch_other_examples():
  batches = _batches(40, repeats=3)
  epochs = [
    [n for b in batches[i : i + 2] for n in b['number']]
    for i in range(0, 40, 2)
  ]
  for epoch in epochs:
    assert len(set(epoch)) == 6  # Five three times, and one once.
  assert set().union(*epochs) == set(range(NUM_EXAMPLES))


@pytest.mark.parametrize('start_step', [1, 2, 3])
def test_repeats_resume_and_are_shared(start_step):
  options = {'repeats': 3, 'device_count': 4}
  resumed = _batches(3, start_step=start_step, num_threads=2, **options)
  whole = _batches(start_step + 3, **options)[start_step:]
  _assert_equal(resumed, whole)
  second = _batches(
    3, start_step=start_step, process_index=1, process_count=2, **options
  )
  half = BATCH // 2
  _assert_equal(second, [{k: x[half:] for k, x in b.items()} for b in whole])


def _digits_stream(num_workers, start_step=0):
  return pipeline.train_iterator(
    sources.digits_source('train'),
    transforms.PadCrop(8, padding=1),
    batch_size=500,  # Two steps to an epoch.
    seed=3,
    start_step=start_step,
    num_workers=num_workers,
  )


def test_workers_do_not_change_the_stream():
  plain = list(itertools.islice(_digits_stream(0), 7))
  for start_step in (0, 3):
    stream = _digits_stream(2, start_step)
    _assert_equal(
      list(itertools.islice(stream, 7 - start_step)), plain[start_step:]
    )
    stream.close()


_SCRIPT = """
import time
from common.data import pipeline, sources, transforms

if __name__ == '__main__':
  stream = pipeline.train_iterator(
    sources.digits_source('train'),
    transforms.PadCrop(8, padding=1),
    batch_size=64,
    seed=0,
    num_workers=1,
  )
  print(next(stream)['image'].shape, flush=True)
  time.sleep(60)
"""


def test_workers_end_when_a_plain_script_is_killed(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(_SCRIPT)
  process = subprocess.Popen(
    [sys.executable, script],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    start_new_session=True,
  )
  try:
    assert process.stdout.readline() == '(64, 8, 8, 3)\n'
    process.kill()
    # Workers share this output, so it only closes when they are gone too.
    process.communicate(timeout=30)
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
  'settings', [{'num_threads': 0}, {'num_threads': 2}, {'num_workers': 1}]
)
def test_error_of_a_source_surfaces_with_its_message(tmp_path, settings):
  for split in ('train', 'test'):
    folder = tmp_path / split / 'ant'
    folder.mkdir(parents=True)
    for i in range(4):
      Image.effect_noise((16, 16), 50).save(folder / f'{i}.png')
  path = tmp_path / 'train' / 'ant' / '2.png'
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  stream = pipeline.train_iterator(
    file_sources.folder_source(tmp_path, 'train'),
    transforms.Resize(8),
    batch_size=4,
    seed=0,
    **settings,
  )
  with pytest.raises(ValueError, match=r'train/ant/2\.png cannot be decoded'):
    next(stream)
  stream.close()


@dataclasses.dataclass
class Fails:
  """A transform that fails on example 5."""

  def __call__(self, example, rng=None):
    if example['number'] == 5:
      raise ValueError('cannot transform number 5')
    return example


def test_error_of_a_transform_surfaces():
  stream = pipeline.train_iterator(Numbers(6), Fails(), batch_size=6, seed=0)
  with pytest.raises(ValueError, match='cannot transform number 5'):
    next(stream)
  stream = pipeline.evaluation_batches(Numbers(6), Fails(), batch_size=3)
  assert next(stream)['number'].tolist() == [0, 1, 2]
  with pytest.raises(ValueError, match='cannot transform number 5'):
    next(stream)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'batch_size': 24}, 'batch of 24 is larger than the data set of 23'),
    ({'batch_size': 0}, 'batch_size = 0 must be positive'),
    ({'repeats': 0}, 'repeats = 0 must be at least 1'),
    ({'process_count': 3}, 'batch of 8 does not divide evenly into 3 devices'),
    ({'process_index': 2, 'process_count': 2}, r'process_index = 2 .* 0\.\.1'),
    (
      {'process_count': 2, 'device_count': 3},
      '3 devices do not divide evenly into 2 processes',
    ),
  ],
)
def test_bad_settings_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _batches(1, **options)


@pytest.mark.parametrize('process_count', [1, 2, 4])
@pytest.mark.parametrize('n', [1, 7, 8, 23, 24])
@pytest.mark.parametrize('num_threads', [0, 2])
def test_evaluation_counts_every_example_once(process_count, n, num_threads):
  seen = []
  for process_index in range(process_count):
    batches = list(
      pipeline.evaluation_batches(
        Numbers(n),
        lambda example: {**example, 'twice': 2 * example['number']},
        batch_size=BATCH,
        process_index=process_index,
        process_count=process_count,
        num_threads=num_threads,
      )
    )
    assert len(batches) == -(-n // BATCH)
    for batch in batches:
      assert batch['mask'].dtype == np.float32
      assert batch['mask'].shape == (BATCH // process_count,)
      assert set(batch['mask']) <= {0.0, 1.0}
      np.testing.assert_array_equal(batch['twice'], 2 * batch['number'])
      assert (batch['number'] < n).all()  # Padding repeats an example.
      seen += list(batch['number'][batch['mask'] == 1])
  assert sorted(seen) == list(range(n))


def test_evaluation_keeps_the_order_over_processes():
  rows = []
  for process_index in range(2):
    stream = pipeline.evaluation_batches(
      Numbers(16),
      lambda example: example,
      batch_size=8,
      process_index=process_index,
      process_count=2,
    )
    rows.append(next(stream)['number'].tolist())
  assert rows == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_evaluation_of_nothing():
  with pytest.raises(ValueError, match='no examples to evaluate'):
    pipeline.evaluation_batches(Numbers(0), lambda e: e, batch_size=4)


def test_evaluation_batch_must_divide():
  with pytest.raises(ValueError, match='batch of 5 does not divide evenly'):
    pipeline.evaluation_batches(
      Numbers(), lambda e: e, batch_size=5, process_count=2
    )
