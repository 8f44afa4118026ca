"""Losses on how the examples of a batch lie to each other.

Both couple the examples of this device's batch and return scalars.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from common.array_types import (
  Array,
  ArrayLike,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_batch,
  require_same_shape,
)


@functools.partial(jax.jit, static_argnames=('squared',))
def rkd_loss(
  student: Array,
  teacher: Array,
  *,
  distance_weight: ArrayLike = 25.0,
  angle_weight: ArrayLike = 50.0,
  squared: bool = False,
) -> Array:
  """Relational knowledge distillation between two embeddings.

  Compares, by the Huber loss with threshold 1, the distances between all pairs
  of examples (in units of their mean) and the cosines of the angles of all
  triples. Couples the examples of a batch, so the scalar is not a mean of
  values per example.

  Args:
    student: student embedding, float [batch, student_dim], batch >= 2.
    teacher: teacher embedding, float [batch, teacher_dim]; a constant, no
      gradient flows into it.
    distance_weight: weight of the mean over batch^2 distances, >= 0.
    angle_weight: weight of the mean over batch^3 cosines, >= 0.
    squared: compare squared distances.

  Returns:
    Scalar, float32.

  Raises:
    ValueError: batch sizes differ or are below 2, or arrays are not floating
      [batch, dim].

  Source: Park et al., "Relational Knowledge Distillation", CVPR 2019, section
  3.
  Differs from the reference: two examples with equal embeddings get an ordinary
  gradient from their angles, where the published one is about 1e12.
  """
  require_rank(2, student=student, teacher=teacher)
  require_floating(student=student, teacher=teacher)
  require_same_batch(student=student, teacher=teacher)
  _require_neighbours(student=student)
  teacher = jax.lax.stop_gradient(teacher)
  (distances, angles), (teacher_distances, teacher_angles) = (
    _relations(student, squared),
    _relations(teacher, squared),
  )
  distance = optax.losses.huber_loss(distances, teacher_distances).mean()
  angle = optax.losses.huber_loss(angles, teacher_angles).mean()
  return distance_weight * distance + angle_weight * angle


@jax.jit
def cc_loss(
  student: Array, teacher: Array, *, scale: ArrayLike = 0.02
) -> Array:
  """Correlation congruence between two embeddings, in its simplified form.

  scale / (batch - 1) * sum_b <delta_b, delta_{b+1}> with
  delta = |student - teacher|, over neighbours in the batch. Couples the
  examples of a batch.

  Args:
    student: linearly embedded student embedding, float [batch, dim],
      batch >= 2.
    teacher: linearly embedded teacher embedding, float [batch, dim]. Its
      linear map is trained too, so gradients flow into it.
    scale: factor of the sum.

  Returns:
    Scalar, float32, >= 0.

  Raises:
    ValueError: shapes differ or are not floating [batch, dim], or batch < 2.

  Source: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV
  2019, as simplified by the published RSD and OFA-KD programs.
  """
  require_rank(2, student=student, teacher=teacher)
  require_floating(student=student, teacher=teacher)
  require_same_shape(student=student, teacher=teacher)
  _require_neighbours(student=student)
  delta = jnp.abs(at_least_float32(student) - at_least_float32(teacher))
  return (delta[:-1] * delta[1:]).sum() * scale / (len(delta) - 1)


def _relations(x: Array, squared: bool) -> tuple[Array, Array]:
  """Distances [b, b] in units of their mean, and cosines [b, b, b]."""
  x = at_least_float32(x)
  offsets = x[None] - x[:, None]
  squares = jnp.square(offsets).sum(axis=-1)
  # The clamp also keeps the gradient of the root finite where examples meet.
  clamped = jnp.maximum(squares, 1e-12)
  others = ~jnp.eye(len(x), dtype=bool)
  distances = jnp.where(others, clamped if squared else jnp.sqrt(clamped), 0)
  # Of length 1, or 0 where examples meet.
  lengths = jnp.sqrt(jnp.where(squares > 0, squares, 1))
  directions = offsets / lengths[..., None]
  angles = jnp.einsum(
    'ijd,ikd->ijk', directions, directions, precision='highest'
  )
  return distances / distances.mean(where=others), angles


def _require_neighbours(**arrays: Array) -> None:
  for name, x in arrays.items():
    if len(x) < 2:
      raise ValueError(f'{name} {list(x.shape)} must hold at least 2 examples')
