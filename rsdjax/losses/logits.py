"""Distillation and classification losses on logits.

One value per example, except for `dist_loss`, which couples the batch.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from common.array_types import Array, ArrayLike
from common.distributed import pmean, psum
from rsdjax.losses._checks import logit_pair, logits_and_targets, target_mask
from rsdjax.losses._numerics import safe_sqrt


@jax.jit
def kd_loss(
  student_logits: Array,
  teacher_logits: Array,
  *,
  temperature: ArrayLike = 1.0,
) -> Array:
  """Knowledge distillation: KL divergence of softened class distributions.

  temperature^2 * KL(softmax(t / temperature) || softmax(s / temperature)).

  Args:
    student_logits: float [batch, classes].
    teacher_logits: float [batch, classes]; a constant, no gradient flows into
      it.
    temperature: divides both logits, > 0. The published recipe uses 1.

  Returns:
    Float32 [batch], >= 0, in nats.

  Raises:
    ValueError: shapes differ, are not [batch, classes], or are not floating.

  Example:
    >>> import jax.numpy as jnp
    >>> from rsdjax.losses import kd_loss
    >>> teacher = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
    >>> loss = kd_loss(jnp.zeros((2, 2)), teacher)
    >>> [round(float(x), 3) for x in loss]
    [0.0, 0.368]

  Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015,
  section 2.
  """
  student_logits, teacher_logits = logit_pair(student_logits, teacher_logits)
  divergence = optax.losses.kl_divergence_with_log_targets(
    jax.nn.log_softmax(student_logits / temperature),
    jax.nn.log_softmax(teacher_logits / temperature),
  )
  return jnp.square(temperature) * divergence


@jax.jit
def binary_kd_loss(student_logits: Array, teacher_logits: Array) -> Array:
  """Knowledge distillation class by class (BKD).

  Every class is a yes-or-no question to the student, whose answer is
  sigmoid(s); the target is the teacher's softmax(t). Mean over classes of the
  binary cross entropy.

  Args:
    student_logits: float [batch, classes].
    teacher_logits: float [batch, classes]; a constant, no gradient flows into
      it.

  Returns:
    Float32 [batch], >= 0, in nats.

  Raises:
    ValueError: shapes differ, are not [batch, classes], or are not floating.

  Source: a baseline of the published RSD and OFA-KD programs.
  """
  student_logits, teacher_logits = logit_pair(student_logits, teacher_logits)
  targets = jax.nn.softmax(teacher_logits)
  return optax.losses.sigmoid_binary_cross_entropy(
    student_logits, targets
  ).mean(axis=-1)


@jax.jit
def dkd_loss(
  student_logits: Array,
  teacher_logits: Array,
  labels: Array,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 2.0,
  temperature: ArrayLike = 1.0,
) -> Array:
  """Decoupled knowledge distillation.

  temperature^2 * (alpha * TCKD + beta * NCKD): the KL divergence between the
  binary distributions (target class, all others), and that between the
  distributions among the other classes. Where alpha = 1 and beta is the
  teacher's probability of the others, the sum is `kd_loss`.

  Args:
    student_logits: float [batch, classes].
    teacher_logits: float [batch, classes]; a constant, no gradient flows into
      it.
    labels: integer [batch] in [0, classes), or float [batch, classes] of class
      probabilities, of which the largest counts as the target class.
    alpha: weight of TCKD (target class).
    beta: weight of NCKD (other classes).
    temperature: divides both logits, > 0.

  Returns:
    Float32 [batch], >= 0, in nats.

  Raises:
    ValueError: shapes do not fit, or logits are not floating.

  Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, section 3.
  """
  student_logits, teacher_logits = logit_pair(student_logits, teacher_logits)
  target = target_mask(labels, student_logits)

  def decouple(logits: Array) -> tuple[Array, Array]:
    """Log probabilities of (target, rest), and of each class given rest."""
    log_p = jax.nn.log_softmax(logits / temperature)
    log_rest = jax.nn.logsumexp(log_p, axis=-1, where=~target)
    log_target = log_p.sum(axis=-1, where=target)
    log_others = jnp.where(target, 0.0, log_p - log_rest[:, None])
    return jnp.stack([log_target, log_rest], axis=-1), log_others

  student_binary, student_others = decouple(student_logits)
  teacher_binary, teacher_others = decouple(teacher_logits)
  tckd = _kl_divergence(student_binary, teacher_binary)
  nckd = _kl_divergence(student_others, teacher_others)
  return jnp.square(temperature) * (alpha * tckd + beta * nckd)


@functools.partial(jax.jit, static_argnames=('axis_name',))
def dist_loss(
  student_logits: Array,
  teacher_logits: Array,
  *,
  beta: ArrayLike = 1.0,
  gamma: ArrayLike = 1.0,
  temperature: ArrayLike = 1.0,
  axis_name: str | None = None,
) -> Array:
  """DIST: correlation of the softened predictions of student and teacher.

  temperature^2 * (beta * (1 - mean over examples of the correlation between
  the two rows of class probabilities) + gamma * (1 - mean over classes of the
  correlation between the two columns)). Couples the examples of a batch.

  Args:
    student_logits: float [batch, classes].
    teacher_logits: float [batch, classes]; a constant, no gradient flows into
      it.
    beta: weight of the inter-class term (rows).
    gamma: weight of the intra-class term (columns).
    temperature: divides both logits, > 0.
    axis_name: device axis that the batch extends over; None means this
      device's batch.

  Returns:
    Scalar, float32, in [0, 2 * temperature^2 * (beta + gamma)].

  Raises:
    ValueError: shapes differ, are not [batch, classes], or are not floating.

  Source: Huang et al., "Knowledge Distillation from A Stronger Teacher",
  NeurIPS 2022, section 4.
  """
  student_logits, teacher_logits = logit_pair(student_logits, teacher_logits)
  student = jax.nn.softmax(student_logits / temperature)
  teacher = jax.nn.softmax(teacher_logits / temperature)
  inter = 1 - pmean(_pearson(student, teacher, axis=1).mean(), axis_name)
  intra = 1 - _pearson(student, teacher, axis=0, axis_name=axis_name).mean()
  return jnp.square(temperature) * (beta * inter + gamma * intra)


@jax.jit
def cross_entropy(
  logits: Array, labels: Array, *, label_smoothing: ArrayLike = 0.0
) -> Array:
  """Softmax cross entropy with integer labels or soft targets.

  Args:
    logits: float [batch, classes].
    labels: integer [batch] in [0, classes), or float [batch, classes] of
      class probabilities (from mixup, say).
    label_smoothing: in [0, 1]; the share of each target that is spread evenly
      over all classes.

  Returns:
    Float32 [batch], in nats.

  Raises:
    ValueError: shapes do not fit, or logits are not floating.

  Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016,
  section 7 (label smoothing).
  """
  logits, targets = logits_and_targets(logits, labels)
  targets = optax.smooth_labels(targets, label_smoothing)
  return optax.losses.softmax_cross_entropy(logits, targets)


@jax.jit
def binary_cross_entropy(
  logits: Array, labels: Array, *, label_smoothing: ArrayLike = 0.0
) -> Array:
  """Sigmoid cross entropy, the mean over classes.

  Args:
    logits: float [batch, classes].
    labels: integer [batch] in [0, classes), or float [batch, classes] of
      targets in [0, 1] (from mixup, say).
    label_smoothing: in [0, 1]; the share of each target that is spread evenly
      over all classes.

  Returns:
    Float32 [batch], in nats.

  Raises:
    ValueError: shapes do not fit, or logits are not floating.

  Source: Wightman et al., "ResNet strikes back", 2021, section 3.
  """
  logits, targets = logits_and_targets(logits, labels)
  targets = optax.smooth_labels(targets, label_smoothing)
  return optax.losses.sigmoid_binary_cross_entropy(logits, targets).mean(-1)


def _kl_divergence(log_q: Array, log_p: Array) -> Array:
  """KL(p || q) over the last axis."""
  return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def _pearson(
  x: Array, y: Array, *, axis: int, axis_name: str | None = None
) -> Array:
  """Correlation of x and y along an axis, extended over devices if named."""

  def centre(z: Array) -> Array:
    return z - pmean(z.mean(axis, keepdims=True), axis_name)

  def total(z: Array) -> Array:
    return psum(z.sum(axis), axis_name)

  x, y = centre(x), centre(y)
  norms = safe_sqrt(total(jnp.square(x))) * safe_sqrt(total(jnp.square(y)))
  return total(x * y) / (norms + 1e-8)
