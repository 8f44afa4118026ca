"""Scores over a whole data set, each example counted once."""

from collections.abc import Callable, Iterable

import jax

from common.array_types import Batch, PyTree

# Per name: the sum over examples of a score, and the number of examples.
Sums = dict[str, tuple[jax.Array, jax.Array]]


def evaluate(
  eval_step: Callable[[PyTree, Batch], Sums],
  variables: PyTree,
  batches: Iterable[Batch],
) -> dict[str, float]:
  """Means of per-example scores; only sums travel, and are divided once.

  Args:
    eval_step: gives masked sums and counts, the same on every device.
    variables: first argument of the step.
    batches: padded batches of one shape, with `mask`.

  Returns:
    The mean of each score.

  Raises:
    ValueError: there was no example.
  """
  totals: dict[str, list[float]] = {}
  for batch in batches:
    for name, pair in jax.device_get(eval_step(variables, batch)).items():
      total = totals.setdefault(name, [0.0, 0.0])
      total[0] += float(pair[0])
      total[1] += float(pair[1])
  if not totals or not all(count for _, count in totals.values()):
    raise ValueError('there is no example to evaluate')
  return {name: total / count for name, (total, count) in totals.items()}


def masked_sum(
  values: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Sum of the values [batch] of real examples, and their number."""
  return (values * mask).sum(), mask.sum()
