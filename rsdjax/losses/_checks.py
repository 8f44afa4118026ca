"""Checks and preparations that several losses make of their arguments."""

import jax
import jax.numpy as jnp

from common.array_types import (
  Array,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_batch,
  require_same_shape,
)


def logit_pair(
  student_logits: Array, teacher_logits: Array
) -> tuple[Array, Array]:
  """Checks a pair of logits; the teacher's become a constant."""
  named = {'student_logits': student_logits, 'teacher_logits': teacher_logits}
  require_rank(2, **named)
  require_same_shape(**named)
  require_floating(**named)
  return (
    at_least_float32(student_logits),
    jax.lax.stop_gradient(at_least_float32(teacher_logits)),
  )


def logits_and_targets(logits: Array, labels: Array) -> tuple[Array, Array]:
  """Checks both; integer labels become one-hot targets."""
  require_rank(2, logits=logits)
  require_floating(logits=logits)
  require_same_batch(logits=logits, labels=labels)
  logits = at_least_float32(logits)
  if jnp.issubdtype(labels.dtype, jnp.integer):
    require_rank(1, labels=labels)
    labels = jax.nn.one_hot(labels, logits.shape[-1])
  require_same_shape(logits=logits, labels=labels)
  return logits, labels.astype(logits.dtype)


def target_mask(labels: Array, logits: Array) -> Array:
  """Bool [batch, classes], true at the (most probable) target class."""
  _, targets = logits_and_targets(logits, labels)
  return jax.nn.one_hot(targets.argmax(-1), targets.shape[-1], dtype=bool)


def require_integers(rank: int, **arrays: Array) -> None:
  """Raises ValueError unless every array has `rank` axes of integers."""
  require_rank(rank, **arrays)
  for name, x in arrays.items():
    if not jnp.issubdtype(x.dtype, jnp.integer):
      raise ValueError(f'{name} {x.dtype}{list(x.shape)} must be integers')
