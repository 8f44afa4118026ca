"""Contrastive representation distillation with explicit memory banks."""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from common.array_types import (
  Array,
  ArrayLike,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_batch,
  require_same_shape,
)
from common.distributed import all_rows, pmean
from rsdjax.losses._checks import require_integers
from rsdjax.losses._numerics import safe_sqrt


class CRDState(flax.struct.PyTreeNode):
  """What `crd_loss` remembers from step to step.

  Attributes:
    student_bank: a unit vector per training example, float [examples, dim].
    teacher_bank: the same of the teacher side.
    normalisers: constants that turn the scores of the student and of the
      teacher into probabilities, float [2]; 0 until the first step fixes them.
  """

  student_bank: Array
  teacher_bank: Array
  normalisers: Array


class ClassIndex(flax.struct.PyTreeNode):
  """The examples of a data set by class, see `index_by_class`.

  Attributes:
    order: example numbers sorted by class, integer [examples].
    start: position in `order` where each class begins, integer [classes].
    count: number of examples of each class, integer [classes].
  """

  order: Array
  start: Array
  count: Array


def init_crd_state(
  rng: Array, num_examples: int, *, features: int = 128
) -> CRDState:
  """Memory banks of random vectors.

  Args:
    rng: key.
    num_examples: size of the training set.
    features: width of the linearly embedded vectors.

  Returns:
    A state whose banks are uniform within +-1 / sqrt(features / 3).
  """
  limit = (features / 3) ** -0.5
  banks = jax.random.uniform(
    rng, (2, num_examples, features), minval=-limit, maxval=limit
  )
  return CRDState(banks[0], banks[1], jnp.zeros(2))


@functools.partial(jax.jit, static_argnames=('num_classes',))
def index_by_class(labels: Array, *, num_classes: int) -> ClassIndex:
  """Sorts a data set by class, once, for `sample_negatives`.

  Args:
    labels: class of every training example, integer [examples].
    num_classes: number of classes.

  Returns:
    The index.

  Raises:
    ValueError: labels are not integer [examples].
  """
  require_integers(1, labels=labels)
  count = jnp.bincount(labels, length=num_classes)
  return ClassIndex(
    order=jnp.argsort(labels), start=jnp.cumsum(count) - count, count=count
  )


@functools.partial(jax.jit, static_argnames=('num_negatives',))
def sample_negatives(
  rng: Array,
  labels: Array,
  class_index: ClassIndex,
  *,
  num_negatives: int = 16384,
) -> Array:
  """Draws examples of other classes, uniformly and with replacement.

  Args:
    rng: key.
    labels: class of each example of the batch, integer [batch].
    class_index: of the training set, which has at least one example of another
      class for each label.
    num_negatives: draws per example.

  Returns:
    Example numbers, integer [batch, num_negatives].

  Raises:
    ValueError: labels are not integer [batch].
  """
  require_integers(1, labels=labels)
  start = class_index.start[labels][:, None]
  count = class_index.count[labels][:, None]
  drawn = jax.random.randint(
    rng,
    (len(labels), num_negatives),
    0,
    len(class_index.order) - count,
  )
  # Positions beyond the start of the own class step over it.
  return class_index.order[jnp.where(drawn < start, drawn, drawn + count)]


@functools.partial(jax.jit, static_argnames=('axis_name',))
def crd_loss(
  student: Array,
  teacher: Array,
  indices: Array,
  negatives: Array,
  state: CRDState,
  *,
  temperature: ArrayLike = 0.07,
  momentum: ArrayLike = 0.5,
  axis_name: str | None = None,
) -> tuple[Array, CRDState]:
  """Contrastive representation distillation.

  Each example tells its own vector in the other side's memory bank from those
  of `negatives`, examples of other classes. With unit vectors v, the bank m of
  the other side, x_i = exp(<v, m_i> / temperature) / Z and
  c = negatives / examples, one side contributes
  -log(x_own / (x_own + c)) - sum_negatives log(c / (x_i + c)).
  Z is the mean of exp(.) over the first batch times the number of examples,
  and fixed ever after: only there does one example's value depend on others.

  Args:
    student: linearly embedded student embedding, float [batch, dim];
      normalised here.
    teacher: linearly embedded teacher embedding, float [batch, dim];
      normalised here. Its linear map is trained too, so gradients flow into
      it.
    indices: number of each example in the training set, integer [batch], no
      two alike.
    negatives: numbers of the examples to tell it from, integer
      [batch, num_negatives], from `sample_negatives`.
    state: memory banks before this step; no gradient flows into them.
    temperature: divides the scores, > 0.
    momentum: weight of the old vectors in the banks, in [0, 1].
    axis_name: device axis that the batch extends over: all devices then write
      the examples of all into their copies of the banks, and share Z. None
      means that each device keeps banks of its own.

  Returns:
    Float32 [batch], and the state after this step.

  Raises:
    ValueError: shapes or dtypes do not fit.

  Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020,
  section 3.
  """
  require_rank(2, student=student, teacher=teacher)
  require_same_shape(student=student, teacher=teacher)
  require_floating(student=student, teacher=teacher)
  require_integers(1, indices=indices)
  require_integers(2, negatives=negatives)
  require_same_batch(student=student, indices=indices, negatives=negatives)
  if state.student_bank.shape[1:] != student.shape[1:]:
    raise ValueError(
      f'student {list(student.shape)} and student_bank '
      f'{list(state.student_bank.shape)} must be of the same width'
    )
  state = jax.lax.stop_gradient(state)
  student, teacher = _normalise(student), _normalise(teacher)
  candidates = jnp.concatenate([indices[:, None], negatives], axis=1)

  def side(
    vectors: Array, bank: Array, normaliser: Array
  ) -> tuple[Array, Array]:
    # A product with the whole bank takes less memory than a gathered copy of
    # one bank row per negative.
    products = jnp.matmul(vectors, bank.T, precision='highest')
    scores = jnp.take_along_axis(products, candidates, axis=1) / temperature
    estimate = pmean(jnp.exp(scores).mean(), axis_name) * len(bank)
    normaliser = jnp.where(
      normaliser > 0, normaliser, jax.lax.stop_gradient(estimate)
    )
    log_ratios = scores - jnp.log(normaliser)
    return _noise_contrast(log_ratios, len(bank)), normaliser

  student_loss, student_normaliser = side(
    student, state.teacher_bank, state.normalisers[0]
  )
  teacher_loss, teacher_normaliser = side(
    teacher, state.student_bank, state.normalisers[1]
  )

  def remember(bank: Array, vectors: Array) -> Array:
    rows = all_rows(indices, axis_name)
    vectors = all_rows(jax.lax.stop_gradient(vectors), axis_name)
    blended = bank[rows] * momentum + vectors * (1 - momentum)
    return (
      jnp.asarray(bank).at[rows].set(_normalise(blended).astype(bank.dtype))
    )

  new_state = CRDState(
    student_bank=remember(state.student_bank, student),
    teacher_bank=remember(state.teacher_bank, teacher),
    normalisers=jnp.stack([student_normaliser, teacher_normaliser]),
  )
  return student_loss + teacher_loss, new_state


def _noise_contrast(log_ratios: Array, num_examples: int) -> Array:
  """Loss [batch] of log x [batch, 1 + negatives], the first one's own."""
  epsilon = 1e-7
  num_negatives = log_ratios.shape[1] - 1
  noise = num_negatives / num_examples
  log_odds = log_ratios - jnp.log(noise + epsilon)
  own = jax.nn.softplus(-log_odds[:, 0])
  others = jax.nn.softplus(log_odds[:, 1:]).sum(axis=1)
  return own + others + num_negatives * jnp.log1p(epsilon / noise)


def _normalise(x: Array) -> Array:
  """Rows of unit length; zero rows stay zero."""
  x = at_least_float32(x)
  length = safe_sqrt(jnp.square(x).sum(axis=-1, keepdims=True))
  return x / jnp.where(length > 0, length, 1)
