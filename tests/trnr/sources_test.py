"""What the baselines draw from."""

import numpy as np
import pytest

from common.data import pairs
from trnr import sources
from trnr.patch_set import PatchSet


def numbers(count):
  return [{'target': np.array(i)} for i in range(count)]


def values(source, start, stop):
  return [int(source[i]['target']) for i in range(start, stop)]


@pytest.mark.parametrize('variants', [0, 1, 3])
def test_patches_and_all_their_versions(variants):
  clean = np.arange(4, dtype=np.uint8)[:, None, None, None]
  degraded = (
    np.stack([clean + 10 * v for v in range(1, variants + 1)], axis=1)
    if variants
    else None
  )
  source = sources.PatchSource(
    PatchSet(clean, degraded, np.array([0, 0, 1, 1]))
  )
  assert len(source) == 4 * max(variants, 1)
  found = [source[i] for i in range(len(source))]
  if not variants:
    assert [set(x) for x in found] == [{'target'}] * 4
    return
  inputs = sorted(int(x['input'].item()) for x in found)
  assert inputs == sorted(degraded.ravel().tolist())
  assert all(x['input'] % 10 == x['target'] for x in found)


def test_batches_of_distinct_images():
  source = sources.DistinctImages(numbers(6), batch_size=4, seed=1)
  steps = [values(source, 4 * s, 4 * s + 4) for s in range(30)]
  assert all(len(set(step)) == 4 for step in steps)
  assert len({tuple(step) for step in steps}) > 20  # Put back each time.
  again = sources.DistinctImages(numbers(6), batch_size=4, seed=1)
  assert values(again, 8, 12) == steps[2]
  other = sources.DistinctImages(numbers(6), batch_size=4, seed=2)
  assert [values(other, 4 * s, 4 * s + 4) for s in range(30)] != steps


def test_large_batches_take_every_image_first():
  source = sources.DistinctImages(numbers(3), batch_size=8, seed=0)
  step = values(source, 0, 8)
  assert sorted(step[:3]) == sorted(step[3:6]) == [0, 1, 2]
  assert len(set(step[6:])) == 2


def test_repeated():
  source = sources.Repeated(numbers(3), 2)
  assert values(source, 0, len(source)) == [0, 1, 2, 0, 1, 2]
  with pytest.raises(IndexError):
    source[6]


def test_part():
  images = [np.full((2, 2, 3), i, np.uint8) for i in range(4)]
  whole = pairs.CleanArrays(images, ('a', 'b', 'c', 'd'))
  part = pairs.Part(whole, range(1, 3))
  assert part.names == ('b', 'c') and len(part) == 2
  assert [x['target'][0, 0, 0] for x in sources.in_memory(part)] == [1, 2]
  with pytest.raises(IndexError):
    part[2]


def test_noise():
  clean = np.full((64, 64, 1), 100, np.uint8)
  noisy = sources.AddNoise(55)({'target': clean}, np.random.default_rng(0))
  assert all(x.dtype == np.float32 for x in noisy.values())
  np.testing.assert_allclose(noisy['target'], 100 / 255, rtol=1e-6)
  assert 0 <= noisy['sigma'] <= 55 / 255
  error = noisy['input'] - noisy['target']
  np.testing.assert_allclose(error.std(), noisy['sigma'], rtol=0.06)
