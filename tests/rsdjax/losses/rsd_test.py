import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import distributed, steps
from rsdjax import losses

CASES = [('shared', f'c{i}') for i in range(8)] + [
  ('stored', case) for case in ('c0', 'c2', 'c6')
]
# (batch, dim): below, at and above the shape where the Gram path takes over.
SHAPES = [(5, 12), (12, 12), (20, 12)]


def embeddings(batch, dim, seed=0):
  """Two related embeddings with columns of different offset and scale."""
  rng = np.random.default_rng(seed)
  teacher = rng.normal(size=(batch, dim))
  student = 0.7 * teacher + rng.normal(size=(batch, dim))
  scale = np.geomspace(0.1, 10, dim)
  return (student * scale + 3.0).astype('f'), teacher.astype('f')


def closed_form(student, teacher, kappa):
  """Loss and gradient in float64, from the formulas of the paper."""

  def standardise(x):
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-5)

  student, teacher = np.float64(student), np.float64(teacher)
  batch, dim = student.shape
  s, t = standardise(student), standardise(teacher)
  error = t.T @ s / batch - np.eye(dim)
  weight = np.where(np.eye(dim, dtype=bool), 1.0, kappa)
  outer = t @ (2 * weight * error) / batch
  # d(deviation) vanishes where the deviation does.
  deviation = np.where(np.ptp(student, axis=0) == 0, 0, student.std(axis=0))
  shrink = np.divide(
    deviation + 1e-5, deviation, out=np.zeros(dim), where=deviation > 0
  )
  inner = outer - outer.mean(axis=0) - s * shrink * (outer * s).mean(axis=0)
  return (weight * error**2).sum(), inner / (deviation + 1e-5)


@pytest.mark.parametrize('source, case', CASES)
def test_loss_and_gradient_match_the_reference(
  source, case, reference, precision, loss_and_gradient
):
  numbers = reference(source, 'rsd_loss')
  student, teacher = precision.cast(
    numbers[f'{case}_student'], numbers[f'{case}_teacher']
  )
  kappa = float(numbers[f'{case}_kappa'])

  loss, gradient = loss_and_gradient(
    losses.rsd_loss, student, teacher, kappa=kappa
  )

  precision.check_loss(loss, numbers[f'{case}_loss64'])
  precision.check_gradient(gradient, numbers[f'{case}_grad64'])


def test_correlation_matches_the_reference(golden, precision):
  numbers = golden('rsd/rsd_loss.npz')
  student, teacher = precision.cast(
    numbers['c0_student'], numbers['c0_teacher']
  )
  np.testing.assert_allclose(
    losses.cross_correlation(student, teacher),
    numbers['c0_corr64'],
    rtol=0,
    atol=precision.loss_rtol,
  )


@pytest.mark.parametrize('way', ['vmap', 'pmap', 'shard_map'])
def test_statistics_are_per_device_without_an_axis_name(way, golden):
  numbers = golden('rsd/rsd_loss.npz')
  student, teacher = numbers['dp_student'], numbers['dp_teacher']

  def grad(student, teacher):
    return jax.value_and_grad(losses.rsd_loss)(
      student, teacher, kappa=float(numbers['dp_kappa'])
    )

  each, gradient = jax.jit(_map(way, grad))(student, teacher)

  np.testing.assert_allclose(each, numbers['dp_loss_each64'], rtol=1e-6)
  np.testing.assert_allclose(
    np.asarray(gradient) / 2, numbers['dp_grad_of_mean64'], rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize('way', ['vmap', 'pmap', 'shard_map'])
def test_statistics_are_pooled_over_an_axis_name(way, golden):
  numbers = golden('rsd/rsd_loss.npz')

  def pooled(student, teacher):
    return losses.rsd_loss(
      student, teacher, kappa=float(numbers['dp_kappa']), axis_name='batch'
    )

  each = jax.jit(_map(way, pooled))(
    numbers['dp_student'], numbers['dp_teacher']
  )

  np.testing.assert_allclose(
    each, np.repeat(numbers['dp_loss_whole_batch64'], 2), rtol=1e-6
  )


@pytest.mark.parametrize('way', distributed.PARALLELISMS)
@pytest.mark.parametrize(
  ('batch', 'dim', 'collective'),
  [(16, 64, 'gather'), (16, 12, 'correlation')],
)
def test_either_collective_equals_one_device(batch, dim, collective, way):
  assert losses.cheaper_collective(batch, dim) == collective
  student, teacher = embeddings(batch, dim)

  def value_and_grad(student, teacher, axis_name=None):
    # As a step has it: parameters on all devices, examples on one.
    def loss(scale):
      value = losses.rsd_loss(student * scale, teacher, axis_name=axis_name)
      return distributed.pmean(value, axis_name)

    value, gradient = jax.value_and_grad(loss)(
      jnp.linspace(1.0, 2.0, dim)[None]
    )
    return value, distributed.pmean(gradient, axis_name)

  expected = jax.jit(value_and_grad)(student, teacher)
  mesh = distributed.make_mesh()
  mapped = steps.map_step(
    lambda _, x: value_and_grad(*x, axis_name=distributed.AXIS_NAME),
    mesh,
    parallelism=way,
  )
  actual = mapped(
    jnp.zeros(()), distributed.shard_batch((student, teacher), mesh, way)
  )
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
  np.testing.assert_allclose(actual[1], expected[1], rtol=1e-4, atol=1e-5)


def _map(way, function):
  """Maps over the leading axis of two, with or without devices."""
  if way == 'vmap':
    return jax.vmap(function, axis_name='batch')
  devices = jax.devices()[:2]
  if way == 'pmap':
    return jax.pmap(function, axis_name='batch', devices=devices)

  def share(*arrays):
    results = function(*(x[0] for x in arrays))
    return jax.tree.map(lambda x: x[None], results)

  spec = jax.sharding.PartitionSpec('batch')
  mesh = jax.sharding.Mesh(np.asarray(devices), 'batch')
  return jax.shard_map(share, mesh=mesh, in_specs=spec, out_specs=spec)


def test_two_examples_by_hand():
  # With two examples a standardised entry is +r or -r, r = 1 / (1 + 1e-5).
  # Columns of the student are (-r, r) twice, of the teacher (-r, r), (r, -r):
  # P = r^2 [[1, 1], [-1, -1]].
  student = jnp.asarray([[0.0, 5.0], [2.0, 7.0]])
  teacher = jnp.asarray([[-1.0, 1.0], [1.0, -1.0]])
  square = (1 + 1e-5) ** -2

  np.testing.assert_allclose(
    losses.cross_correlation(student, teacher),
    [[square, square], [-square, -square]],
    rtol=1e-6,
  )
  invariance = (square - 1) ** 2 + (square + 1) ** 2
  decorrelation = 0.5 * 2 * square**2
  np.testing.assert_allclose(
    losses.invariance_loss(student, teacher), invariance, rtol=1e-6
  )
  np.testing.assert_allclose(
    losses.decorrelation_loss(student, teacher, kappa=0.5),
    decorrelation,
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    losses.rsd_loss(student, teacher, kappa=0.5),
    invariance + decorrelation,
    rtol=1e-6,
  )


@pytest.mark.parametrize('batch, dim', SHAPES)
@pytest.mark.parametrize('kappa', [0.0, 0.01, 1.0])
def test_loss_and_gradient_match_the_closed_form(
  batch, dim, kappa, precision, loss_and_gradient
):
  student, teacher = precision.cast(*embeddings(batch, dim))

  loss, gradient = loss_and_gradient(
    losses.rsd_loss, student, teacher, kappa=kappa
  )

  expected_loss, expected_gradient = closed_form(student, teacher, kappa)
  precision.check_loss(loss, expected_loss)
  precision.check_gradient(gradient, expected_gradient)


@pytest.mark.parametrize('batch, dim', SHAPES)
@pytest.mark.parametrize('constant', [0.0, 0.3, 1000.1])
def test_dead_columns_have_the_large_but_finite_gradient(
  batch, dim, constant, precision, loss_and_gradient
):
  student, teacher = precision.cast(*embeddings(batch, dim))
  student[:, 2] = constant
  teacher[:, 4] = constant

  _, gradient = loss_and_gradient(losses.rsd_loss, student, teacher, kappa=0.01)

  _, expected = closed_form(student, teacher, 0.01)
  precision.check_gradient(gradient, expected)
  assert np.abs(gradient[:, 2]).max() > 1e3


def test_a_batch_of_one_loses_one_per_dimension(loss_and_gradient):
  student, teacher = embeddings(1, 7)
  loss, gradient = loss_and_gradient(losses.rsd_loss, student, teacher)
  np.testing.assert_allclose(loss, 7.0)
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('batch, dim', SHAPES)
def test_parts_add_up(batch, dim):
  student, teacher = embeddings(batch, dim)
  whole = losses.rsd_loss(student, teacher, kappa=0.3)
  invariance = losses.invariance_loss(student, teacher)
  decorrelation = losses.decorrelation_loss(student, teacher, kappa=0.3)
  np.testing.assert_allclose(invariance + decorrelation, whole, rtol=1e-6)
  np.testing.assert_allclose(
    losses.rsd_loss(student, teacher, kappa=0.0), invariance, rtol=1e-6
  )


def decorrelation_by_matrix(student, teacher):
  correlation = losses.cross_correlation(student, teacher)
  off_diagonal = ~np.eye(len(correlation), dtype=bool)
  return 0.01 * jnp.square(correlation).sum(where=off_diagonal)


@pytest.mark.parametrize('batch, dim', SHAPES)
@pytest.mark.parametrize('precision', ['float64'], indirect=True)
def test_gram_path_equals_correlation_path(
  batch, dim, precision, loss_and_gradient
):
  pair = precision.cast(*embeddings(batch, dim))
  loss, gradient = loss_and_gradient(losses.decorrelation_loss, *pair)
  expected = loss_and_gradient(decorrelation_by_matrix, *pair)
  precision.check_loss(loss, expected[0])
  precision.check_gradient(gradient, expected[1])


@pytest.mark.parametrize(
  'batch, forms_matrix', [(5, False), (12, True), (20, True)]
)
def test_a_small_batch_never_forms_the_square_of_the_width(batch, forms_matrix):
  student, teacher = embeddings(batch, 12)
  program = jax.jit(jax.value_and_grad(losses.rsd_loss)).lower(student, teacher)
  assert ('tensor<12x12xf32>' in program.as_text()) == forms_matrix


def test_shift_scale_and_order_do_not_matter():
  student, teacher = embeddings(16, 8)
  scale = np.geomspace(1, 10, 8, dtype='f')
  order = np.random.default_rng(0).permutation(16)
  loss = losses.rsd_loss(student, teacher)
  for changed in [
    (student + 2, teacher),
    (student, teacher - 5),
    # The epsilon beside the deviation makes scale matter by about 1e-5.
    (student * scale, teacher),
    (student, teacher * scale),
    (student[order], teacher[order]),
    (teacher, student),
  ]:
    np.testing.assert_allclose(losses.rsd_loss(*changed), loss, rtol=1e-4)


def test_equal_embeddings_correlate_fully():
  student, _ = embeddings(64, 4)
  diagonal = np.diagonal(losses.cross_correlation(student, student))
  np.testing.assert_allclose(diagonal, 1.0, atol=1e-3)
  assert losses.invariance_loss(student, student) < 1e-6
