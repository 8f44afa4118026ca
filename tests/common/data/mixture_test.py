import collections
import itertools
import pickle

import numpy as np
import pytest

from common.data import mixture, pair_transforms, pairs, pipeline, transforms


def pair_set(size, value=0, side=4):
  """Pairs whose target says their set and whose input says their number."""
  images = np.ones((size, side, side, 3), np.uint8)
  numbers = np.arange(size, dtype=np.uint8)[:, None, None, None]
  return pairs.ArrayPairs(
    list(images * numbers),
    list(images * np.uint8(value)),
    tuple(f'{i}.png' for i in range(size)),
  )


SETS = {'a': pair_set(5, 1), 'b': pair_set(1, 2), 'c': pair_set(10, 3)}


def test_sets_one_after_the_other():
  mixed = mixture.Mixture(SETS)
  assert len(mixed) == 16 and mixed.sizes == {'a': 5, 'b': 1, 'c': 10}
  assert mixed.names[4:7] == ('a/4.png', 'b/0.png', 'c/0.png')
  seen = [
    (int(mixed[i]['target'].max()), int(mixed[i]['input'].max()))
    for i in range(16)
  ]
  expected = [(1, i) for i in range(5)] + [(2, 0)]
  assert seen == expected + [(3, i) for i in range(10)]
  np.testing.assert_array_equal(mixed[-1]['input'], mixed[15]['input'])
  with pytest.raises(IndexError):
    mixed[16]


def test_bad_sets_are_named():
  with pytest.raises(ValueError, match=r'sets of \{\} pairs: need one'):
    mixture.Mixture({})
  with pytest.raises(ValueError, match=r"'none': 0\} pairs: need one, and no"):
    mixture.Mixture({'a': SETS['a'], 'none': pair_set(0)})


def test_images_below_the_crop_are_named():
  mixed = mixture.Mixture({'a': pair_set(2, side=8), 'b': pair_set(3)}, 8)
  assert mixed[1]['target'].shape == (8, 8, 3)
  with pytest.raises(
    ValueError, match=r'^b/2\.png of 4 x 4 pixels is smaller than 8 x 8$'
  ):
    mixed[4]


def counts_of(order, epochs):
  """How many pairs of each set an order shows."""
  ends = np.cumsum([*epochs.mixture.sizes.values()])
  found = np.bincount(np.searchsorted(ends, order, side='right'))
  return tuple(found.tolist())


def test_by_size_every_epoch_has_every_pair():
  epochs = mixture.mix(SETS, seed=0)
  assert epochs.counts == (5, 1, 10)
  orders = [tuple(epochs.order(epoch)) for epoch in range(20)]
  for order in orders:
    assert sorted(order) == [*range(16)]
  assert len(set(orders)) == 20


def test_by_weight():
  epochs = mixture.mix(
    SETS, seed=0, weights={'b': 1, 'c': 2, 'a': 1}, num_examples=20
  )
  assert epochs.counts == (5, 5, 10)
  for epoch in range(3):
    assert counts_of(epochs.order(epoch), epochs) == (5, 5, 10)
  # A set that is larger than its share: without replacement, all in the end.
  epochs = mixture.mix(
    SETS, seed=0, weights={'a': 0, 'b': 0, 'c': 1}, num_examples=4
  )
  orders = [epochs.order(epoch) for epoch in range(20)]
  assert all(len(set(order)) == 4 for order in orders)
  assert set(np.concatenate(orders)) == set(range(6, 16))
  # One that is smaller: each pair as often as any other, or once more.
  epochs = mixture.mix(
    SETS, seed=0, weights={'a': 1, 'b': 0, 'c': 0}, num_examples=13
  )
  seen = collections.Counter(epochs.order(0).tolist())
  assert sorted(seen) == [0, 1, 2, 3, 4]
  assert sorted(seen.values()) == [2, 2, 3, 3, 3]


def test_proportional_counts():
  for weights, total, expected in (
    ((1800, 1800, 700, 12000, 12600), 28900, (1800, 1800, 700, 12000, 12600)),
    ((1, 1, 1), 10, (4, 3, 3)),
    ((0.1, 0.2, 0.7), 10, (1, 2, 7)),
    ((0.5, 0, 3.5), 4, (1, 0, 3)),
    ((1, 1), 0, (0, 0)),
  ):
    assert mixture.proportional_counts(weights, total) == expected
  for weights in ((0, 0), (1, -1), (np.nan, 1)):
    with pytest.raises(ValueError, match='must be positive'):
      mixture.proportional_counts(weights, 3)


def test_epochs_are_filled_up_to_whole_batches():
  epochs = mixture.mix(SETS, seed=0, batch_size=6)
  assert epochs.steps_per_epoch == 3
  order = epochs.order(2)
  assert len(order) == 18 and sorted(order[:16]) == [*range(16)]
  np.testing.assert_array_equal(order[16:], order[:2])
  # Longer than twice an epoch.
  epochs = mixture.mix(SETS, seed=0, num_examples=2, batch_size=5)
  assert len(epochs.order(0)) == 5 and len(set(epochs.order(0))) == 2
  # Element i is element i of that epoch.
  epochs = mixture.mix(SETS, seed=0, batch_size=6)
  for index in (0, 17, 18, 2**40):
    epoch, place = divmod(index, 18)
    expected = epochs.mixture[int(epochs.order(epoch)[place])]
    for key, image in epochs[index].items():
      np.testing.assert_array_equal(image, expected[key])


def test_half_real_half_synthetic():
  real = {'real': pair_set(40, 4), 'few': pair_set(8, 5)}
  epochs = mixture.balanced_with(real, SETS, seed=3)
  # Sixteen real ones, of 40 and 8 in proportion.
  assert epochs.counts == (5, 1, 10, 13, 3)
  chosen = []
  for epoch in range(30):
    order = epochs.order(epoch)
    assert len(set(order)) == 32 and counts_of(order, epochs) == epochs.counts
    chosen.append(frozenset(order[order >= 16]))
  assert len(set(chosen)) == 30
  assert len(frozenset.union(*chosen)) == 48
  fixed = mixture.balanced_with(real, SETS, seed=3, redraw=False)
  orders = [fixed.order(epoch) for epoch in range(5)]
  assert len({frozenset(order) for order in orders}) == 1
  assert len({tuple(order) for order in orders}) == 5
  other = mixture.balanced_with(real, SETS, seed=4, redraw=False)
  assert set(other.order(0)) != set(fixed.order(0))
  with pytest.raises(ValueError, match=r"\['a'\] are names of real and synth"):
    mixture.balanced_with({'a': SETS['a']}, SETS, seed=0)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'weights': {'a': 1, 'b': 2}}, r"weights of \['a', 'b'\] must be of the"),
    ({'weights': {'a': 1, 'b': -2, 'c': 1}}, r'weights \[1, -2, 1\] must be'),
    ({'num_examples': 0}, r'counts \(0, 0, 0\) and batch_size = 1 must be'),
    ({'batch_size': 0}, 'batch_size = 0 must be positive'),
  ],
)
def test_bad_mixtures_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    mixture.mix(SETS, seed=0, **options)


def test_bad_counts_are_named():
  for counts in ((1, 2), (1, 2, -1)):
    with pytest.raises(ValueError, match=r'must be one for each of \{'):
      mixture.Epochs(mixture.Mixture(SETS), counts, seed=0)


CHAIN = transforms.Chain(
  (
    pair_transforms.WithWholeImages(3),
    pair_transforms.PairCrop(2),
    pair_transforms.PairSymmetry(('none', 'up_down', 'left_right', 'none')),
  )
)


def stream(source, *, shuffle, steps, **options):
  batches = pipeline.train_iterator(
    source, CHAIN, batch_size=4, seed=7, shuffle=shuffle, **options
  )
  taken = list(itertools.islice(batches, steps))
  batches.close()
  return taken


@pytest.mark.parametrize('kind', ['by size', 'by weight', 'balanced'])
@pytest.mark.parametrize('num_threads', [0, 2])
def test_streams_resume_and_share_exactly(kind, num_threads):
  shuffle = kind == 'by size'
  if kind == 'by size':
    source = mixture.Mixture(SETS, 2)
  elif kind == 'by weight':
    weights = {'a': 1, 'b': 1, 'c': 2}
    source = mixture.mix(SETS, seed=1, weights=weights, num_examples=6)
  else:
    source = mixture.balanced_with({'real': pair_set(99)}, SETS, seed=1)
  source = pickle.loads(pickle.dumps(source))
  whole = stream(source, shuffle=shuffle, steps=9, num_threads=0)
  assert {key: x.shape for key, x in whole[0].items()} == {
    'input': (4, 2, 2, 3),
    'target': (4, 2, 2, 3),
    'whole_input': (4, 3, 3, 3),
    'whole_target': (4, 3, 3, 3),
  }
  assert all(x.dtype == np.uint8 for x in whole[0].values())
  shares = [
    stream(
      source,
      shuffle=shuffle,
      steps=5,
      start_step=4,
      num_threads=num_threads,
      process_index=index,
      process_count=2,
    )
    for index in range(2)
  ]
  for expected, *parts in zip(whole[4:], *shares, strict=True):
    for key in expected:
      np.testing.assert_array_equal(
        np.concatenate([part[key] for part in parts]), expected[key]
      )


def test_epochs_in_a_stream():
  source = mixture.mix(SETS, seed=1, batch_size=4)
  batches = stream(source, shuffle=False, steps=12)
  shown = [
    sorted(
      (int(target.max()), int(degraded.max()))
      for batch in batches[start : start + 4]
      for degraded, target in zip(batch['input'], batch['target'], strict=True)
    )
    for start in (0, 4, 8)
  ]
  expected = [
    (
      int(source.mixture[i]['target'].max()),
      int(source.mixture[i]['input'].max()),
    )
    for i in range(16)
  ]
  assert shown == [expected] * 3
