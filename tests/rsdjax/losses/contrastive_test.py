import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from common.distributed import make_mesh, pmean
from rsdjax import losses

EXAMPLES, DIM, BATCH, NEGATIVES = 40, 6, 16, 5


@pytest.fixture
def batch():
  """Vectors of both sides, their numbers in the data set, and negatives."""
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, BATCH, DIM)).astype('f')
  indices = rng.permutation(EXAMPLES)[:BATCH].astype(np.int32)
  negatives = rng.integers(EXAMPLES, size=(BATCH, NEGATIVES), dtype=np.int32)
  return student, teacher, indices, negatives


@pytest.fixture
def state():
  return losses.init_crd_state(jax.random.key(0), EXAMPLES, features=DIM)


@pytest.mark.parametrize('source, num_steps', [('shared', 2), ('stored', 1)])
def test_steps_match_the_reference(source, num_steps, reference, precision):
  numbers = {
    key.removeprefix('crd_'): value
    for key, value in reference(source, 'feature_losses').items()
  }
  # The reference keeps these two in float32.
  temperature, momentum = np.float32(numbers['num_data_K_T_momentum'][2:])

  def embed(x, side):
    weight, bias = precision.cast(
      numbers[f'embed_{side}_weight'], numbers[f'embed_{side}_bias']
    )
    return x @ weight.T + bias[None]

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss_and_gradient(student, teacher, candidates, state):
    per_example, state = losses.crd_loss(
      embed(student, 's'),
      embed(teacher, 't'),
      candidates[:, 0],
      candidates[:, 1:],
      state,
      temperature=float(temperature),
      momentum=float(momentum),
    )
    return per_example.mean(), state

  state = losses.CRDState(
    *precision.cast(numbers['memory_v1_0'], numbers['memory_v2_0'], np.zeros(2))
  )
  for step in range(num_steps):
    student, teacher = precision.cast(
      numbers[f'student_{step}'], numbers[f'teacher_{step}']
    )
    (loss, state), gradient = loss_and_gradient(
      student, teacher, numbers[f'contrast_index_{step}'], state
    )
    precision.check_loss(loss, numbers[f'loss_{step}_64'][0])
    precision.check_gradient(gradient, numbers[f'grad_student_{step}_64'])
    after = step + 1
    for actual, name in [
      (state.student_bank, 'memory_v1'),
      (state.teacher_bank, 'memory_v2'),
      (state.normalisers, 'Z'),
    ]:
      precision.check_gradient(actual, numbers[f'{name}_{after}_64'])


def test_one_negative_by_hand():
  # Two examples; v points along the own row of the bank (score 1 / T) and is
  # orthogonal to the other (score 0). Z = 2 (exp(1 / T) + 1) / 2, c = 1 / 2.
  bank = jnp.eye(2)
  state = losses.CRDState(bank, bank, jnp.zeros(2))
  loss, state = losses.crd_loss(
    jnp.asarray([[3.0, 0.0]]),
    jnp.asarray([[5.0, 0.0]]),
    jnp.asarray([0]),
    jnp.asarray([[1]]),
    state,
    temperature=0.5,
  )
  z = np.exp(2.0) + 1
  own, other = np.exp(2.0) / z, 1 / z
  expected = -np.log(own / (own + 0.5)) - np.log(0.5 / (other + 0.5))
  np.testing.assert_allclose(loss, [2 * expected], rtol=1e-5)
  np.testing.assert_allclose(state.normalisers, [z, z], rtol=1e-6)
  np.testing.assert_allclose(state.student_bank, bank, atol=1e-6)


def test_banks_move_halfway_and_stay_on_the_sphere(batch, state):
  student, _, indices, _ = batch
  _, new_state = losses.crd_loss(*batch, state, momentum=0.25)
  state, new_state = jax.device_get((state, new_state))

  unit = student / np.linalg.norm(student, axis=1, keepdims=True)
  moved = 0.25 * state.student_bank[indices] + 0.75 * unit
  moved /= np.linalg.norm(moved, axis=1, keepdims=True)
  np.testing.assert_allclose(
    new_state.student_bank[indices], moved, rtol=0, atol=1e-6
  )
  others = np.setdiff1d(np.arange(EXAMPLES), indices)
  np.testing.assert_array_equal(
    new_state.student_bank[others], state.student_bank[others]
  )


def test_normalisers_are_fixed_by_the_first_step(batch, state):
  _, first = losses.crd_loss(*batch, state)
  _, second = losses.crd_loss(*batch, first)
  assert (first.normalisers > 0).all()
  np.testing.assert_array_equal(second.normalisers, first.normalisers)


@pytest.mark.parametrize('way', ['shard_map', 'pmap'])
def test_first_step_on_devices_equals_one_device(way, batch, state):
  def train_step(weights, student, *others, axis_name=None):
    def loss_fn(weights):
      per_example, new_state = losses.crd_loss(
        student @ weights, *others, state, axis_name=axis_name
      )
      return pmean(per_example.mean(), axis_name), new_state

    (loss, new_state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
      weights
    )
    return loss, new_state, pmean(gradient, axis_name)

  weights = jnp.eye(DIM)
  on_devices = functools.partial(train_step, axis_name='batch')
  if way == 'pmap':
    shares = [x.reshape(8, -1, *x.shape[1:]) for x in batch]
    results = jax.pmap(
      on_devices, 'batch', in_axes=(None, 0, 0, 0, 0), out_axes=None
    )(weights, *shares)
  else:
    split = PartitionSpec('batch')
    mapped = jax.shard_map(
      on_devices,
      mesh=make_mesh(),
      in_specs=(PartitionSpec(), split, split, split, split),
      out_specs=PartitionSpec(),
    )
    results = jax.jit(mapped)(weights, *batch)

  expected = jax.jit(train_step)(weights, *batch)
  for actual, wanted in zip(
    jax.tree.leaves(results), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


def test_a_zero_vector_has_a_finite_gradient(batch, state):
  student, *others = batch
  student = student.copy()
  student[0] = 0
  loss, gradient = jax.jit(
    jax.value_and_grad(
      lambda student: losses.crd_loss(student, *others, state)[0].mean()
    )
  )(student)
  assert np.isfinite(loss)
  assert np.isfinite(gradient).all()


def test_no_gradient_reaches_the_banks(batch, state):
  gradient = jax.jit(
    jax.grad(lambda state: losses.crd_loss(*batch, state)[0].mean())
  )(state)
  for leaf in jax.tree.leaves(gradient):
    np.testing.assert_array_equal(leaf, 0)


def test_initial_banks():
  state = losses.init_crd_state(jax.random.key(0), 1000)
  limit = (128 / 3) ** -0.5
  for bank in (state.student_bank, state.teacher_bank):
    assert bank.shape == (1000, 128)
    np.testing.assert_allclose([bank.min(), bank.max()], [-limit, limit], 1e-3)
  assert (state.student_bank != state.teacher_bank).any()
  np.testing.assert_array_equal(state.normalisers, [0, 0])


def test_negatives_are_uniform_over_the_other_classes():
  labels = np.asarray([2, 0, 1, 0, 2, 2, 0, 1, 3, 2], np.int32)
  class_index = losses.index_by_class(labels, num_classes=5)
  asked = np.asarray([0, 2, 3], np.int32)

  negatives = losses.sample_negatives(
    jax.random.key(0), asked, class_index, num_negatives=20_000
  )

  assert negatives.shape == (3, 20_000)
  for label, drawn in zip(asked, negatives, strict=True):
    others = np.flatnonzero(labels != label)
    share = np.bincount(drawn, minlength=10) / 20_000
    assert share[labels == label].sum() == 0
    # Four standard deviations of a share.
    np.testing.assert_allclose(share[others], 1 / len(others), atol=0.01)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'student': np.zeros((BATCH, 3), 'f')}, r'student float32\[16, 3\].*same'),
    ({'indices': np.zeros(BATCH, 'f')}, r'indices float32\[16\] must be int'),
    ({'negatives': np.zeros(3, np.int32)}, r'negatives int32\[3\] .* 2 axes'),
    ({'indices': np.zeros(3, np.int32)}, r'indices int32\[3\].* same batch'),
    (
      {'state': losses.CRDState(*np.zeros((2, 4, 3), 'f'), np.zeros(2, 'f'))},
      r'student \[16, 6\] .* student_bank \[4, 3\]',
    ),
  ],
)
def test_arguments_that_do_not_fit_raise(change, message, batch, state):
  names = ('student', 'teacher', 'indices', 'negatives')
  arguments = dict(zip(names, batch, strict=True)) | {'state': state} | change
  with pytest.raises(ValueError, match=message):
    losses.crd_loss(**arguments)
