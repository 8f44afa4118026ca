"""Tasks of N clusters and K shots, drawn from a patch set.

The source gives element i from its number alone, so that streams resume, shard
and repeat exactly (see `common.data.pipeline`).
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from common.data import pipeline
from common.data.sources import Example
from trnr.patch_set import PatchSet

# The symmetries of the square, as the published samplers number them.
_FOUR = (
  lambda x: x,
  lambda x: np.rot90(x, 2),
  lambda x: x[::-1],
  lambda x: x[:, ::-1],
)
_SEVEN = (
  lambda x: np.rot90(x)[::-1],
  lambda x: x[::-1],
  lambda x: np.rot90(x, 3),
  lambda x: np.rot90(x, 2)[::-1],
  np.rot90,
  lambda x: np.rot90(x, 2),
  lambda x: np.rot90(x, 3)[::-1],
)


class Draw(NamedTuple):
  """One patch of a task.

  Attributes:
    cluster: its cluster.
    patch: its number within the cluster.
    operation: number of its augmentation.
    variant: which of its degraded versions.
    sigma: strength of the noise in [0, 1]; 0 without noise.
    noise: standard normal, like the patch, or None.
  """

  cluster: int
  patch: int
  operation: int
  variant: int = 0
  sigma: float = 0.0
  noise: np.ndarray | None = None


class Task(NamedTuple):
  """The patches of one task.

  Attributes:
    support: N K of them.
    query: N K' of them; the last K' are of a cluster of their own.
  """

  support: list[Draw]
  query: list[Draw]


def draw_episode(
  rng: np.random.RandomState,
  sizes: np.ndarray,
  *,
  num_tasks: int,
  frequencies: int,
  shots: int = 1,
  query_shots: int = 1,
  replace: bool = True,
  variants: int = 1,
  max_sigma: float | None = None,
  noise_shape: tuple[int, ...] = (),
) -> list[Task]:
  """Draws the tasks of one step, in the order of the published sampler.

  A task takes K + K' patches each of N clusters for support and query, but
  the last K' query patches come from another cluster, so that the two sets
  share N - 1 clusters.

  Args:
    rng: legacy generator, for the same draws as the published program.
    sizes: number of patches in each cluster, [clusters].
    num_tasks: tasks of the step.
    frequencies: N, clusters of a task.
    shots: K, support patches of a cluster.
    query_shots: K', query patches of a cluster.
    replace: whether clusters may be drawn again (published: for rain with one
      version of each patch).
    variants: degraded versions of each patch.
    max_sigma: upper limit of the noise in units of 1/255; None for no noise.
    noise_shape: of the noise of a patch.

  Returns:
    The tasks.

  Example:
    Three clusters to a task; support and query share two of them:

    >>> import numpy as np
    >>> from trnr.tasks import draw_episode
    >>> (task,) = draw_episode(
    ...   np.random.RandomState(0),
    ...   np.array([5, 5, 5, 5]),
    ...   num_tasks=1,
    ...   frequencies=3,
    ...   replace=False,
    ... )
    >>> [[draw.cluster for draw in part] for part in task]
    [[2, 3, 1], [2, 3, 0]]

  Source: Ran et al., the program (samplers).
  """
  labels = rng.choice(len(sizes), (frequencies + 1) * num_tasks, replace)

  def draw(cluster: int, patch: int) -> Draw:
    variant = int(rng.choice(variants)) if variants > 1 else 0
    if max_sigma is None:
      return Draw(cluster, patch, int(rng.choice(len(_FOUR))), variant)
    sigma = rng.uniform(0, max_sigma) / 255
    operation = int(rng.choice(len(_SEVEN)))
    noise = rng.standard_normal(noise_shape)
    return Draw(cluster, patch, operation, variant, sigma, noise)

  def chosen(cluster: int, count: int) -> list[int]:
    return [int(i) for i in rng.choice(sizes[cluster], count, False)]

  tasks = []
  for of_task in labels.reshape(num_tasks, frequencies + 1).tolist():
    support: list[Draw] = []
    query: list[Draw] = []
    for position, cluster in enumerate(of_task[:-1]):
      picked = chosen(cluster, shots + query_shots)
      support += [draw(cluster, patch) for patch in picked[:shots]]
      if position < frequencies - 1:
        query += [draw(cluster, patch) for patch in picked[shots:]]
    extra = of_task[-1]
    query += [draw(extra, patch) for patch in chosen(extra, query_shots)]
    tasks.append(Task(support, query))
  return tasks


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSource:
  """Tasks from a patch set; element i is task i % num_tasks of its step.

  An element has `support` and `query`, each a dict of `input` and `target`
  [shots, size, size, c]: uint8, or with noise float32 in [0, 1] (not clipped)
  and `sigma` [shots].

  Attributes:
    patch_set: what to draw from.
    num_tasks: tasks of a step, which are drawn together.
    frequencies: N; see `draw_episode`, as for the next three.
    shots: K.
    query_shots: K'.
    replace: whether clusters may be drawn again within a step.
    seed: of the draws.
    max_sigma: adds noise of up to this strength, in units of 1/255, to the
      clean patches; None takes the degraded ones.

  Raises:
    ValueError: the patch set has too few clusters, or one has too few patches.

  Source: Ran et al., IEEE TIP 2023 (N-frequency-K-shot tasks).
  """

  patch_set: PatchSet
  num_tasks: int
  frequencies: int
  shots: int = 1
  query_shots: int = 1
  replace: bool = True
  seed: int = 0
  max_sigma: float | None = None

  def __post_init__(self) -> None:
    for name in ('num_tasks', 'frequencies', 'shots', 'query_shots'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} = {getattr(self, name)} must be positive')
    sizes = self.patch_set.sizes
    needed = (self.frequencies + 1) * self.num_tasks
    if not self.replace and len(sizes) < needed:
      raise ValueError(
        f'{self.num_tasks} tasks of {self.frequencies} + 1 clusters without '
        f'replacement need {needed} clusters; there are {len(sizes)}'
      )
    if sizes.min() < self.shots + self.query_shots:
      raise ValueError(
        f'cluster {int(sizes.argmin())} has {sizes.min()} patches; {self.shots}'
        f' shots and {self.query_shots} query shots need '
        f'{self.shots + self.query_shots}; leave such clusters out by '
        '`smallest_cluster` of the patch analysis'
      )
    if self.max_sigma is None and self.patch_set.degraded is None:
      raise ValueError(
        'the patch set has no degraded patches; give max_sigma for noise'
      )
    # The tasks of a step are asked for one by one, by several threads.
    cached = functools.lru_cache(maxsize=8)(self._draw)
    object.__setattr__(self, '_episode', cached)

  def __len__(self) -> int:
    return 2**40 * self.num_tasks

  def __getitem__(self, index: int) -> dict[str, Any]:
    step, task = divmod(int(index), self.num_tasks)
    drawn = self._episode(step)[task]  # type: ignore[attr-defined]
    return {
      'support': self._patches(drawn.support),
      'query': self._patches(drawn.query),
    }

  def name(self, index: int) -> str:
    """What a task is made of: clusters and numbers of patches in them."""
    step, task = divmod(index, self.num_tasks)
    drawn = self._episode(step)[task]  # type: ignore[attr-defined]
    parts = [
      f'{draw.cluster}:{draw.patch}' for draw in [*drawn.support, *drawn.query]
    ]
    return f'task {task} of patches (cluster:number) {" ".join(parts)}'

  def _draw(self, step: int) -> list[Task]:
    sequence = np.random.SeedSequence((self.seed, step))
    degraded = self.patch_set.degraded
    return draw_episode(
      np.random.RandomState(sequence.generate_state(4)),
      self.patch_set.sizes,
      num_tasks=self.num_tasks,
      frequencies=self.frequencies,
      shots=self.shots,
      query_shots=self.query_shots,
      replace=self.replace,
      variants=1 if degraded is None else degraded.shape[1],
      max_sigma=self.max_sigma,
      noise_shape=self.patch_set.clean.shape[1:],
    )

  def _patches(self, draws: list[Draw]) -> Example:
    examples = [read_draw(self.patch_set, draw) for draw in draws]
    return {
      key: np.stack([example[key] for example in examples])
      for key in examples[0]
    }


def read_draw(patch_set: PatchSet, draw: Draw) -> Example:
  """The pixels of a drawn patch: `input`, `target`, and `sigma` with noise."""
  index = patch_set.starts[draw.cluster] + draw.patch
  clean = patch_set.clean[index]
  if draw.noise is None:
    assert patch_set.degraded is not None
    operation = _FOUR[draw.operation]
    degraded = patch_set.degraded[index, draw.variant]
    return {'input': operation(degraded), 'target': operation(clean)}
  target = _SEVEN[draw.operation](clean) / 255
  return {
    'input': np.asarray(target + draw.sigma * draw.noise, np.float32),
    'target': np.asarray(target, np.float32),
    'sigma': np.asarray(draw.sigma, np.float32),
  }


def task_iterator(
  source: TaskSource,
  *,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
) -> Iterator[dict[str, Any]]:
  """An endless stream of steps.

  Args:
    source: the tasks.
    start_step: number of the first step.
    process_index: of this process, which gets its share of the tasks.
    process_count: number of processes.
    num_threads: see `pipeline.train_iterator`.

  Returns:
    Iterator over `support` and `query` with arrays [num_tasks /
    process_count, shots, size, size, c].

  Raises:
    ValueError: the tasks do not divide evenly.
  """
  return pipeline.train_iterator(
    source,
    _unchanged,
    batch_size=source.num_tasks,
    seed=source.seed,
    shuffle=False,
    start_step=start_step,
    process_index=process_index,
    process_count=process_count,
    num_threads=num_threads,
  )


def _unchanged(example: Example, rng: np.random.Generator) -> Example:
  del rng
  return example
