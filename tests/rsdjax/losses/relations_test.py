import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsdjax import losses

# By the static option `squared`.
RKD = {
  squared: functools.partial(losses.rkd_loss, squared=squared)
  for squared in (False, True)
}


@pytest.mark.parametrize(
  'source, case', [('shared', 'rkd0'), ('shared', 'rkd1'), ('stored', 'rkd1')]
)
def test_rkd_matches_the_reference(
  source, case, reference, precision, loss_and_gradient
):
  numbers = reference(source, 'feature_losses')
  student, teacher = precision.cast(
    numbers[f'{case}_student'], numbers[f'{case}_teacher']
  )
  distance_weight, angle_weight = map(float, numbers[f'{case}_weights'])

  loss, gradient = loss_and_gradient(
    RKD[bool(numbers[f'{case}_squared'])],
    student,
    teacher,
    distance_weight=distance_weight,
    angle_weight=angle_weight,
  )

  precision.check_loss(loss, numbers[f'{case}_loss64'])
  precision.check_gradient(gradient, numbers[f'{case}_grad64'])


@pytest.mark.parametrize('case', ['rkd0', 'rkd1'])
@pytest.mark.parametrize(
  'part, weights', [('dist', (1.0, 0.0)), ('angle', (0.0, 1.0))]
)
def test_rkd_parts_match_the_reference(case, part, weights, golden, precision):
  numbers = golden('rsd/feature_losses.npz')
  loss = RKD[bool(numbers[f'{case}_squared'])](
    *precision.cast(numbers[f'{case}_student'], numbers[f'{case}_teacher']),
    distance_weight=weights[0],
    angle_weight=weights[1],
  )
  precision.check_loss(loss, numbers[f'{case}_{part}_part64'])


@pytest.mark.parametrize('source', ['shared', 'stored'])
def test_cc_matches_the_reference(source, reference, precision):
  numbers = reference(source, 'feature_losses')

  def loss_fn(student, student_weight, teacher_weight):
    embedded = student @ student_weight.T + numbers['cc0_embed_s_bias'][None]
    target = teacher @ teacher_weight.T + numbers['cc0_embed_t_bias'][None]
    return losses.cc_loss(embedded, target, scale=float(numbers['cc0_scale']))

  teacher, *arguments = precision.cast(
    *(
      numbers[f'cc0_{name}']
      for name in ('teacher', 'student', 'embed_s_weight', 'embed_t_weight')
    )
  )
  loss, gradients = jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1, 2)))(
    *arguments
  )

  precision.check_loss(loss, numbers['cc0_loss64'])
  for gradient, name in zip(
    gradients, ('student', 'embed_s_weight', 'embed_t_weight'), strict=True
  ):
    precision.check_gradient(gradient, numbers[f'cc0_grad_{name}64'])


def test_rkd_by_hand():
  # A right angle against a line, legs of length 1. Distances in the order
  # (01, 02, 12): student 1, 1, sqrt(2), teacher 1, 1, 2; means (2 + sqrt 2) / 3
  # and 4 / 3. All differences are below 1: half of their squares, twice each,
  # over 9 entries.
  student = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
  teacher = jnp.asarray([[0.0], [1.0], [-1.0]])
  distances = np.asarray([1, 1, 2**0.5]) * 3 / (2 + 2**0.5)
  teacher_distances = np.asarray([1, 1, 2]) * 3 / 4
  expected = np.square(distances - teacher_distances).sum() / 9
  np.testing.assert_allclose(
    losses.rkd_loss(student, teacher, angle_weight=0.0, distance_weight=1.0),
    expected,
    rtol=1e-5,
  )
  # Cosines: 0 at the corner and sqrt(1/2) at the two others, against -1 at the
  # middle and 1 at the two ends; each appears twice among 27 entries. A Huber
  # difference of just 1 is 1/2.
  expected = 2 * (0.5 + 2 * 0.5 * (1 - 0.5**0.5) ** 2) / 27
  np.testing.assert_allclose(
    losses.rkd_loss(student, teacher, angle_weight=1.0, distance_weight=0.0),
    expected,
    rtol=1e-5,
  )


def test_cc_by_hand():
  # Differences (1, 2), (3, 0), (1, 1): neighbours multiply to 3 and 3.
  student = jnp.asarray([[1.0, 2.0], [0.0, 0.0], [1.0, -1.0]])
  teacher = jnp.asarray([[0.0, 4.0], [3.0, 0.0], [0.0, 0.0]])
  np.testing.assert_allclose(
    losses.cc_loss(student, teacher), 0.02 * 6 / 2, rtol=1e-6
  )


def test_cc_sends_gradients_to_the_teacher():
  student, teacher = np.random.default_rng(0).normal(size=(2, 4, 3))
  to_student, to_teacher = jax.grad(losses.cc_loss, argnums=(0, 1))(
    student.astype('f'), teacher.astype('f')
  )
  np.testing.assert_array_equal(to_teacher, -to_student)
  assert np.abs(to_teacher).max() > 0


@pytest.mark.parametrize('squared', [False, True])
@pytest.mark.parametrize('equal', [2, 5], ids=['two equal', 'all equal'])
def test_rkd_of_equal_examples_has_a_modest_gradient(
  squared, equal, loss_and_gradient
):
  student, teacher = np.random.default_rng(0).normal(size=(2, 5, 3)).astype('f')
  student[:equal] = student[0]
  loss, gradient = loss_and_gradient(RKD[squared], student, teacher)
  assert np.isfinite(loss)
  assert np.abs(gradient).max() < 100


@pytest.mark.parametrize('loss_fn', [losses.rkd_loss, losses.cc_loss])
def test_one_example_has_no_relations(loss_fn):
  with pytest.raises(ValueError, match=r'student \[1, 3\] .* at least 2'):
    loss_fn(np.zeros((1, 3), 'f'), np.zeros((1, 3), 'f'))


def test_rkd_batches_that_differ_raise():
  with pytest.raises(ValueError, match=r'float32\[4, 3\].* same batch size'):
    losses.rkd_loss(np.zeros((4, 3), 'f'), np.zeros((5, 3), 'f'))
