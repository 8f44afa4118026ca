"""The redundancy suppression loss, its two parts, and what they are made of."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from common import distributed
from common.array_types import (
  Array,
  ArrayLike,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_shape,
)
from rsdjax.losses._numerics import safe_sqrt

# Added to the standard deviation, not to the variance.
_EPSILON = 1e-5


@functools.partial(jax.jit, static_argnames=('axis_name',))
def rsd_loss(
  student: Array,
  teacher: Array,
  *,
  kappa: ArrayLike = 0.01,
  axis_name: str | None = None,
) -> Array:
  """Redundancy suppression loss between two embeddings of the same images.

  Standardises both embeddings over the batch and drives their
  cross-correlation P towards the identity:
  sum_i (P_ii - 1)^2 + kappa * sum_{i != j} P_ij^2.
  Couples the examples of a batch, and is a sum over the D x D entries of P,
  never a mean. A column that is constant over the batch has a finite gradient.

  Args:
    student: decoupled student embedding, float [batch, dim].
    teacher: teacher embedding, float [batch, dim]; a constant, no gradient
      flows into it.
    kappa: weight of the off-diagonal (decorrelation) terms, >= 0.
    axis_name: device axis to take batch statistics over; None means this
      device's batch, as in the published program. `cheaper_collective` says
      what the devices exchange.

  Returns:
    Scalar, float32 (float64 for float64 inputs).

  Raises:
    ValueError: shapes differ, are not [batch, dim], or are not floating.

  Example:
    P is the identity for embeddings that agree in uncorrelated dimensions, and
    has its ones in the wrong places if these change places:

    >>> import jax.numpy as jnp
    >>> from rsdjax.losses import rsd_loss
    >>> teacher = jnp.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    >>> round(float(rsd_loss(teacher, teacher)), 3)
    0.0
    >>> round(float(rsd_loss(teacher[:, ::-1], teacher)), 3)
    2.02

  Source: Zhang et al., "Cross-Architecture Distillation Made Simple with
  Redundancy Suppression", ICCV 2025, section 3.
  """
  student, teacher = _standardised_pair(student, teacher, axis_name)
  diagonal = _diagonal(student, teacher, axis_name)
  return _invariance(diagonal) + kappa * _off_diagonal_energy(
    student, teacher, diagonal, axis_name
  )


@functools.partial(jax.jit, static_argnames=('axis_name',))
def invariance_loss(
  student: Array, teacher: Array, *, axis_name: str | None = None
) -> Array:
  """Diagonal part of `rsd_loss`: sum_i (P_ii - 1)^2.

  Equals `rsd_loss` with kappa = 0, at the cost of batch x dim instead of
  dim x dim numbers.

  Args:
    student: decoupled student embedding, float [batch, dim].
    teacher: teacher embedding, float [batch, dim]; a constant.
    axis_name: device axis to take batch statistics over; None means this
      device's batch.

  Returns:
    Scalar, float32 (float64 for float64 inputs).

  Raises:
    ValueError: shapes differ, are not [batch, dim], or are not floating.

  Source: as `rsd_loss`; the "invariance maximisation" term.
  """
  student, teacher = _standardised_pair(student, teacher, axis_name)
  return _invariance(_diagonal(student, teacher, axis_name))


@functools.partial(jax.jit, static_argnames=('axis_name',))
def decorrelation_loss(
  student: Array,
  teacher: Array,
  *,
  kappa: ArrayLike = 0.01,
  axis_name: str | None = None,
) -> Array:
  """Off-diagonal part of `rsd_loss`: kappa * sum_{i != j} P_ij^2.

  `invariance_loss(s, t) + decorrelation_loss(s, t, kappa=kappa)` is
  `rsd_loss(s, t, kappa=kappa)`.

  Args:
    student: decoupled student embedding, float [batch, dim].
    teacher: teacher embedding, float [batch, dim]; a constant.
    kappa: weight of the sum, >= 0.
    axis_name: device axis to take batch statistics over; None means this
      device's batch.

  Returns:
    Scalar, float32 (float64 for float64 inputs).

  Raises:
    ValueError: shapes differ, are not [batch, dim], or are not floating.

  Source: as `rsd_loss`; the "decorrelation" term.
  """
  student, teacher = _standardised_pair(student, teacher, axis_name)
  diagonal = _diagonal(student, teacher, axis_name)
  return _off_diagonal_energy(student, teacher, diagonal, axis_name) * kappa


@functools.partial(jax.jit, static_argnames=('axis_name',))
def cross_correlation(
  student: Array, teacher: Array, *, axis_name: str | None = None
) -> Array:
  """Cross-correlation matrix P of two embeddings of the same images.

  Args:
    student: student embedding, float [batch, dim].
    teacher: teacher embedding, float [batch, dim]; a constant.
    axis_name: device axis to take batch statistics over; None means this
      device's batch.

  Returns:
    Float [dim, dim] with entries in [-1, 1]; P[i, j] correlates teacher
    dimension i with student dimension j.

  Raises:
    ValueError: shapes differ, are not [batch, dim], or are not floating.

  Source: as `rsd_loss`.
  """
  student, teacher = _standardised_pair(student, teacher, axis_name)
  return _correlation(student, teacher, axis_name)


def cheaper_collective(
  batch: int, dim: int
) -> Literal['correlation', 'gather']:
  """What `rsd_loss` over a device axis exchanges, by shape alone.

  Either devices sum their dim x dim correlations, which moves 2 dim^2 numbers
  through each device and nothing in the backward pass; or they gather both
  standardised embeddings and scatter the gradient of one, 3 batch dim numbers.

  Args:
    batch: examples of all devices.
    dim: of the embeddings.

  Returns:
    Which of the two moves less.
  """
  return 'gather' if 3 * batch < 2 * dim else 'correlation'


def _standardised_pair(
  student: Array, teacher: Array, axis_name: str | None
) -> tuple[Array, Array]:
  """Checks both embeddings and standardises their columns."""
  require_rank(2, student=student, teacher=teacher)
  require_same_shape(student=student, teacher=teacher)
  require_floating(student=student, teacher=teacher)
  teacher = jax.lax.stop_gradient(teacher)
  return _standardise(student, axis_name), _standardise(teacher, axis_name)


def _standardise(x: Array, axis_name: str | None) -> Array:
  """Zero mean and (biased) unit deviation over the batch, per column."""
  x = at_least_float32(x)
  # Twice: the first mean of a large offset is off by its rounding, which is
  # enough to make a constant column look alive beside the epsilon.
  for _ in range(2):
    x -= distributed.pmean(x.mean(axis=0, keepdims=True), axis_name)
  variance = distributed.pmean(
    jnp.square(x).mean(axis=0, keepdims=True), axis_name
  )
  return x / (safe_sqrt(variance) + _EPSILON)


def _diagonal(student: Array, teacher: Array, axis_name: str | None) -> Array:
  """The diagonal of P, without P."""
  return distributed.pmean((student * teacher).mean(axis=0), axis_name)


def _correlation(
  student: Array, teacher: Array, axis_name: str | None
) -> Array:
  """P from standardised embeddings."""
  products = jnp.matmul(teacher.T, student, precision='highest')
  return distributed.pmean(products / len(student), axis_name)


def _invariance(diagonal: Array) -> Array:
  return jnp.square(diagonal - 1.0).sum()


def _off_diagonal_energy(
  student: Array, teacher: Array, diagonal: Array, axis_name: str | None
) -> Array:
  """Sum of P_ij^2 over i != j, in the form that is cheaper at this shape."""
  batch, dim = student.shape
  if axis_name is None:
    by_gram = batch < dim
  else:
    devices = distributed.axis_size(axis_name)
    by_gram = cheaper_collective(batch * devices, dim) == 'gather'
  if by_gram:
    return _off_diagonal_by_gram(student, teacher, diagonal, axis_name)
  return _off_diagonal_by_correlation(student, teacher, axis_name)


def _off_diagonal_by_gram(
  student: Array, teacher: Array, diagonal: Array, axis_name: str | None
) -> Array:
  """Uses |P|^2 = <S S', T T'> / batch^2, which never forms dim x dim.

  Each device has the rows of its own examples, against the whole batch.
  """

  def gram(x: Array) -> Array:
    everywhere = x
    if axis_name is not None:
      everywhere = jax.lax.all_gather(x, axis_name, tiled=True)
    return jnp.matmul(x, everywhere.T, precision='highest')

  student_gram, teacher_gram = gram(student), gram(teacher)
  energy = distributed.psum((student_gram * teacher_gram).sum(), axis_name)
  return energy / student_gram.shape[1] ** 2 - jnp.square(diagonal).sum()


def _off_diagonal_by_correlation(
  student: Array, teacher: Array, axis_name: str | None
) -> Array:
  correlation = _correlation(student, teacher, axis_name)
  off_diagonal = ~jnp.eye(len(correlation), dtype=bool)
  return jnp.square(correlation).sum(where=off_diagonal)
