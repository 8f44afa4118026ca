"""Tasks: the published draws, their rules, and streams of them."""

import jax
import numpy as np
import pytest

from trnr import tasks
from trnr.patch_set import PatchSet

AUGMENTATIONS = (
  lambda x: x,
  lambda x: x[::-1, ::-1],
  lambda x: x[::-1],
  lambda x: x[:, ::-1],
)


def stored_patches(stored, variants):
  """The data set that the README of the stored numbers describes."""
  number, size = stored['cluster_number_of_label'], stored['cluster_sizes']
  rows, columns = np.mgrid[:8, :8]
  clean, degraded, cluster = [], [], []
  for label, folder in enumerate(number):
    for i in range(size[folder]):
      patch = np.empty((8, 8, 3), np.uint8)
      patch[:] = folder, i, 0
      patch[..., 2] = 3 * (8 * rows + columns)
      clean.append(patch)
      cluster.append(label)
      versions = [patch.copy() for _ in range(variants)]
      for a, version in enumerate(versions, 1):
        version[..., 1] = i + (20 * a if variants > 1 else 0)
      degraded.append(versions)
  return PatchSet(np.stack(clean), np.array(degraded), np.array(cluster))


def draw(stored, rng, patch_set, **options):
  return tasks.draw_episode(
    rng,
    patch_set.sizes,
    num_tasks=int(stored['batch_size']),
    frequencies=int(stored['n_freqs']),
    shots=int(stored['k_shot']),
    query_shots=int(stored['k_query']),
    **options,
  )


@pytest.mark.parametrize('variants', [1, 6])
def test_stored_draws(golden, variants):
  stored = golden('trnr/task_sampling.npz')
  patch_set = stored_patches(stored, variants)
  rng = np.random.RandomState(stored['numpy_seed'])
  name = 'rain' if variants == 1 else 'rainaug'
  for episode in range(3):
    drawn = draw(
      stored, rng, patch_set, replace=variants == 1, variants=variants
    )
    for part in ('support', 'query'):
      expected = stored[f'{name}_{part}'][episode]
      for task, of_task in zip(drawn, expected, strict=True):
        for one, (folder, patch, operation, version) in zip(
          getattr(task, part), of_task, strict=True
        ):
          example = tasks.read_draw(patch_set, one)
          clean = np.empty((8, 8, 3), np.uint8)
          clean[:] = folder, patch, 0
          clean[..., 2] = 3 * np.arange(64).reshape(8, 8)
          change = AUGMENTATIONS[operation]
          np.testing.assert_array_equal(example['target'], change(clean))
          clean[..., 1] += np.uint8(20 * version)
          np.testing.assert_array_equal(example['input'], change(clean))


def test_stored_noise(golden):
  stored = golden('trnr/task_sampling.npz')
  colour = stored_patches(stored, 1)
  red, green, blue = np.moveaxis(colour.clean.astype(int), -1, 0)
  luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
  patch_set = PatchSet(luma[..., None].astype(np.uint8), None, colour.cluster)
  rng = np.random.RandomState(stored['numpy_seed'])
  drawn = draw(
    stored,
    rng,
    patch_set,
    replace=False,
    max_sigma=55,
    noise_shape=(8, 8, 1),
  )
  for part in ('support', 'query'):
    for number, task in enumerate(drawn):
      for slot, one in enumerate(getattr(task, part)):
        example = tasks.read_draw(patch_set, one)
        for key, name in (('input', 'noisy'), ('target', 'clean')):
          np.testing.assert_allclose(
            example[key][..., 0],
            stored[f'noise_{part}_{name}'][number, slot, 0],
            atol=1e-6,
          )
        np.testing.assert_allclose(
          example['sigma'], stored[f'noise_{part}_sigma'][number, slot]
        )


def numbered(sizes=(3, 4, 5, 6), variants=1, channels=3):
  """Patches whose pixels say cluster, number and version (0 if clean)."""
  clean = np.zeros((sum(sizes), 4, 4, channels), np.uint8)
  cluster = np.repeat(np.arange(len(sizes)), sizes)
  clean[..., 0] = 16 * cluster[:, None, None]
  clean[..., 0] += np.concatenate([np.arange(n) for n in sizes]).astype(
    np.uint8
  )[:, None, None]
  degraded = np.repeat(clean[:, None], variants, axis=1)
  if channels == 3:
    degraded[..., 1] = 1 + np.arange(variants)[None, :, None, None]
  return PatchSet(clean, degraded, cluster)


def test_support_and_query_share_all_clusters_but_one():
  rng = np.random.RandomState(0)
  sizes = np.array([4, 5, 6, 7, 8, 9])
  for task in tasks.draw_episode(
    rng, sizes, num_tasks=2, frequencies=2, shots=2, replace=False
  ):
    support = [(x.cluster, x.patch) for x in task.support]
    query = [(x.cluster, x.patch) for x in task.query]
    assert len(set(support)) == 4 and len(set(query)) == 2
    assert support[0][0] == support[1][0] == query[0][0]
    assert query[1][0] not in {cluster for cluster, _ in support}
    assert not set(support) & set(query)
    assert all(patch < sizes[cluster] for cluster, patch in support + query)


def test_clusters_are_drawn_again_only_if_allowed():
  def clusters(replace):
    drawn = tasks.draw_episode(
      np.random.RandomState(0),
      np.full(12, 3),
      num_tasks=4,
      frequencies=2,
      replace=replace,
    )
    return [x for t in drawn for x in {d.cluster for d in t.support + t.query}]

  assert sorted(clusters(False)) == list(range(12))
  assert len(set(clusters(True))) < 12


@pytest.mark.parametrize('variants', [1, 3])
def test_source_gives_uint8_pairs(variants):
  source = tasks.TaskSource(
    numbered(variants=variants), num_tasks=2, frequencies=3, shots=2
  )
  seen = set()
  for index in range(20):
    example = source[index]
    assert example['support']['input'].shape == (6, 4, 4, 3)
    assert example['query']['input'].shape == (3, 4, 4, 3)
    for part in example.values():
      assert part['input'].dtype == np.uint8
      np.testing.assert_array_equal(
        part['input'][..., 0], part['target'][..., 0]
      )
      seen |= set(part['input'][..., 1].ravel().tolist())
  assert seen == set(range(1, variants + 1))


@pytest.mark.parametrize('channels', [1, 3])
def test_noise_has_the_strength_it_says(channels):
  clean = np.full((12, 32, 32, channels), 128, np.uint8)
  source = tasks.TaskSource(
    PatchSet(clean, None, np.repeat([0, 1, 2], 4)),
    num_tasks=1,
    frequencies=2,
    max_sigma=55,
  )
  strengths = []
  for index in range(40):
    support = source[index]['support']
    assert support['input'].dtype == support['sigma'].dtype == np.float32
    assert support['sigma'].shape == (2,)
    noise = (support['input'] - support['target']).reshape(2, -1)
    # Five standard errors of a deviation from 1,024 numbers.
    np.testing.assert_allclose(noise.std(1), support['sigma'], rtol=0.11)
    strengths += support['sigma'].tolist()
  assert 0 <= min(strengths) < 5 / 255
  assert 50 / 255 < max(strengths) <= 55 / 255


def stream(start_step=0, process_index=0, process_count=1, seed=3):
  source = tasks.TaskSource(numbered(), num_tasks=4, frequencies=2, seed=seed)
  return tasks.task_iterator(
    source,
    start_step=start_step,
    process_index=process_index,
    process_count=process_count,
  )


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_stream_is_seeded_and_resumes():
  first, again = stream(), stream()
  steps = [next(first) for _ in range(4)]
  for step in steps:
    assert_same(step, next(again))
  later = stream(start_step=2)
  for step in steps[2:]:
    assert_same(step, next(later))
  assert not np.array_equal(
    steps[0]['support']['target'], next(stream(seed=4))['support']['target']
  )
  assert steps[0]['support']['input'].shape == (4, 2, 4, 4, 3)
  assert not np.array_equal(
    steps[0]['support']['target'], steps[1]['support']['target']
  )


def test_processes_share_the_tasks():
  whole = next(stream(start_step=1))
  shares = [
    next(stream(start_step=1, process_index=i, process_count=2))
    for i in range(2)
  ]
  assert_same(jax.tree.map(lambda a, b: np.concatenate([a, b]), *shares), whole)
  with pytest.raises(ValueError, match='does not divide evenly'):
    stream(process_count=3)


@pytest.mark.parametrize(
  ('sizes', 'options', 'message'),
  [
    ((3, 3), {'frequencies': 0}, 'frequencies = 0'),
    ((3, 3), {'replace': False}, r'2 tasks of 1 \+ 1 .* need 4 .* are 2'),
    ((3, 1), {}, 'cluster 1 has 1 patches; 1 shots and 1 query shots need 2'),
    ((3, 3), {'query_shots': 3}, 'need 4'),
  ],
)
def test_errors_say_what_is_needed(sizes, options, message):
  with pytest.raises(ValueError, match=message):
    tasks.TaskSource(
      numbered(sizes), **{'num_tasks': 2, 'frequencies': 1, **options}
    )


def test_noise_or_degraded_patches_are_needed():
  clean = PatchSet(numbered().clean, None, numbered().cluster)
  with pytest.raises(ValueError, match='give max_sigma'):
    tasks.TaskSource(clean, num_tasks=1, frequencies=1)
