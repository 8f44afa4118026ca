"""Learning rates of the published recipes, and of those that mend a slip."""

import jax.numpy as jnp
import optax

from common import optimizers
from common.array_types import Array, ArrayLike

PUBLISHED_STEPS = 92_000, 300_000, 500_000


def make_schedule(
  kind: str,
  *,
  learning_rate: float,
  num_steps: int,
  final_learning_rate: float = 1e-6,
  steps_per_epoch: int = 1,
  milestones: tuple[int, ...] = (),
  factor: float = 0.2,
) -> optax.Schedule:
  """A schedule by name.

  Args:
    kind: 'constant'; 'milestones', which multiplies the rate at the end of
      epochs; 'cosine' from epoch to epoch; 'hold_cosine', which holds the rate
      for 92 / 300 of the run and then goes down by a cosine; or
      'drsformer_published', see below.
    learning_rate: of the first step.
    num_steps: length of the run.
    final_learning_rate: at its end, for the cosines.
    steps_per_epoch: length of an epoch, for 'milestones' and 'cosine'.
    milestones: epochs, counted from 0, after which the rate is multiplied.
    factor: that it is multiplied by.

  Returns:
    A function of the step, for optax.

  Raises:
    ValueError: there is no such kind.

  The published program of DRSformer holds 3e-4 for 92,000 steps and goes down
  to 1e-4 until step 300,000. There it jumps back to 3e-4, for a cosine that
  would end at step 500,000, and its default run of 400,000 steps stops in the
  middle of it. 'drsformer_published' does the same for any `learning_rate`,
  at these steps; 'hold_cosine' is what was meant.

  Source: Ran et al., the programs of CoIC.
  """
  if kind == 'milestones':
    ends = [steps_per_epoch * (epoch + 1) for epoch in milestones]
    return optax.piecewise_constant_schedule(
      learning_rate, dict.fromkeys(ends, factor)
    )
  if kind == 'hold_cosine':
    hold = num_steps * PUBLISHED_STEPS[0] // PUBLISHED_STEPS[1]
    alpha = final_learning_rate / learning_rate
    wave = optax.cosine_decay_schedule(
      learning_rate, max(num_steps - hold, 1), alpha
    )
    return optax.join_schedules(
      [optax.constant_schedule(learning_rate), wave], [hold]
    )
  if kind == 'drsformer_published':
    return _drsformer(learning_rate, final_learning_rate)
  return optimizers.learning_rate_schedule(
    kind,
    learning_rate=learning_rate,
    num_steps=num_steps,
    final_learning_rate=final_learning_rate,
    hold_steps=steps_per_epoch,
  )


def _drsformer(
  learning_rate: float, final_learning_rate: float
) -> optax.Schedule:
  hold, restart, end = PUBLISHED_STEPS

  def schedule(count: ArrayLike) -> Array:
    step = jnp.asarray(count) + 1  # The program counts from 1.

    def wave(first: int, last: int, low: float) -> Array:
      phase = jnp.pi * (step - first) / (last - first)
      return low + (learning_rate - low) * 0.5 * (1 + jnp.cos(phase))

    return jnp.select(
      [step <= hold, step <= restart],
      [jnp.float32(learning_rate), wave(hold, restart, learning_rate / 3)],
      wave(restart, end, final_learning_rate),
    )

  return schedule
