import numpy as np
import pytest

from common.data import sources


def test_digits_splits_are_fixed_and_disjoint():
  train, test = (sources.digits_source(split) for split in ('train', 'test'))
  assert (len(train), len(test)) == (1197, 600)
  np.testing.assert_array_equal(np.bincount(test.labels), [60] * 10)
  assert np.bincount(train.labels).min() >= 114
  # Together they are all scans, each once.
  both = np.concatenate([train.images, test.images])
  assert len({scan.tobytes() for scan in both}) == 1797
  # A split that moves makes earlier results incomparable.
  assert test.labels[:12].tolist() == [1, 2, 4, 5, 6, 9, 4, 7, 8, 9, 2, 7]
  assert test.images.sum(dtype=np.int64) == 8952918


def test_digits_elements():
  train = sources.digits_source('train')
  assert train.num_classes == 10
  assert train.class_names == tuple('0123456789')
  example = train[5]
  assert example['image'].shape == (8, 8, 3)
  assert example['image'].dtype == np.uint8
  assert train.images.max() == 255 and train.images.min() == 0
  assert example['label'].dtype == np.int32 and example['label'].shape == ()


def test_class_balanced_order_is_a_permutation_with_balanced_beginnings():
  labels = np.random.default_rng(1).integers(7, size=500)
  order = sources.class_balanced_order(labels)
  np.testing.assert_array_equal(np.sort(order), np.arange(500))
  for n in (1, 7, 10, 70, 200, 350):
    counts = np.bincount(labels[order[:n]], minlength=7)
    assert counts.max() - counts.min() <= 1, n


def test_class_balanced_order_is_random_within_a_class():
  order = sources.class_balanced_order(np.zeros(100, int))
  assert not np.array_equal(order, np.sort(order))
  np.testing.assert_array_equal(
    order, sources.class_balanced_order(np.zeros(100, int))
  )


def test_class_that_runs_out_is_passed_over():
  labels = np.array([0, 1, 1, 1, 1])
  first = labels[sources.class_balanced_order(labels)[:2]]
  assert sorted(first) == [0, 1]
  assert labels[sources.class_balanced_order(labels)][2:].tolist() == [1, 1, 1]


def test_first_examples_are_nested_and_balanced():
  train = sources.digits_source('train')
  small = sources.first_examples(train, 50)
  large = sources.first_examples(train, 200)
  assert len(small) == 50 and small.num_classes == 10
  assert small.class_names == train.class_names
  np.testing.assert_array_equal(np.bincount(small.labels), [5] * 10)
  for i in (0, 49):
    np.testing.assert_array_equal(small[i]['image'], large[i]['image'])
    assert small[i]['label'] == small.labels[i]


@pytest.mark.parametrize('n', [-1, 0, 1198])
def test_more_examples_than_there_are(n):
  with pytest.raises(ValueError, match=rf'num_examples = {n} .* 1\.\.1197'):
    sources.first_examples(sources.digits_source('train'), n)
