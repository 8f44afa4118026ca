import jax
import numpy as np
import pytest

from rsdjax import losses

# Name in the reference file: the loss, whether it takes labels, its options.
CASES = {
  'kd_T1': (losses.kd_loss, False, {}),
  'kd_T4': (losses.kd_loss, False, {'temperature': 4.0}),
  'bkd': (losses.binary_kd_loss, False, {}),
  'dkd_a1_b2_T1': (losses.dkd_loss, True, {}),
  'dkd_a1_b8_T4': (losses.dkd_loss, True, {'beta': 8.0, 'temperature': 4.0}),
  'dist_b1_g1_T1': (losses.dist_loss, False, {}),
  'dist_b2_g0.5_T4': (
    losses.dist_loss,
    False,
    {'beta': 2.0, 'gamma': 0.5, 'temperature': 4.0},
  ),
  'ofa_e1_T1': (losses.ofa_loss, True, {}),
  'ofa_e1.4_T1': (losses.ofa_loss, True, {'exponent': 1.4}),
  'ofa_e1.5_T1': (losses.ofa_loss, True, {'exponent': 1.5}),
  'ofa_e0.8_T2': (losses.ofa_loss, True, {'exponent': 0.8, 'temperature': 2.0}),
  'rsdlogit_k0.01': (losses.rsd_loss, False, {}),
}
SMALL = [case for case in CASES if case != 'ofa_e1.4_T1']
LARGE = [
  'kd_T1',
  'bkd',
  'dkd_a1_b2_T1',
  'dist_b1_g1_T1',
  'ofa_e1_T1',
  'ofa_e1.4_T1',
  'rsdlogit_k0.01',
]
STORED = [
  'kd_T4',
  'bkd',
  'dkd_a1_b8_T4',
  'dist_b2_g0.5_T4',
  'ofa_e1.5_T1',
  'rsdlogit_k0.01',
]
CLASSIFICATION = {
  'ce_smooth0.1': (
    losses.cross_entropy,
    'ce_labels',
    {'label_smoothing': 0.1},
  ),
  'ce_smooth0.25': (
    losses.cross_entropy,
    'ce_labels',
    {'label_smoothing': 0.25},
  ),
  'ce_soft': (losses.cross_entropy, 'mix_target', {}),
  'bce_soft': (losses.binary_cross_entropy, 'mix_target', {}),
}


@pytest.mark.parametrize(
  'source, size, case',
  [('shared', 'l0', case) for case in SMALL]
  + [('shared', 'l1', case) for case in LARGE]
  + [('stored', 'l0', case) for case in STORED],
)
def test_loss_and_gradient_match_the_reference(
  source, size, case, reference, precision, loss_and_gradient
):
  numbers = reference(source, 'logit_losses')
  student, teacher = precision.cast(
    numbers[f'{size}_student'], numbers[f'{size}_teacher']
  )
  loss_fn, takes_labels, options = CASES[case]
  labels = (numbers[f'{size}_target'],) if takes_labels else ()

  loss, gradient = loss_and_gradient(
    loss_fn, student, teacher, *labels, **options
  )

  precision.check_loss(loss, numbers[f'{size}_{case}_loss64'])
  precision.check_gradient(gradient, numbers[f'{size}_{case}_grad64'])


@pytest.mark.parametrize(
  'source, case',
  [('shared', case) for case in CLASSIFICATION]
  + [('stored', case) for case in CLASSIFICATION if case != 'ce_smooth0.25'],
)
def test_classification_matches_the_reference(
  source, case, reference, precision, loss_and_gradient
):
  numbers = reference(source, 'logit_losses')
  loss_fn, labels, options = CLASSIFICATION[case]
  (logits,) = precision.cast(numbers['ce_logits'])

  loss, gradient = loss_and_gradient(
    loss_fn, logits, numbers[labels], **options
  )

  precision.check_loss(loss, numbers[f'{case}_loss64'])
  precision.check_gradient(gradient, numbers[f'{case}_grad64'])


# Two classes: probabilities (1/2, 1/2) of the student, (3/4, 1/4) of the
# teacher, of which the first is the target.
STUDENT = np.zeros((1, 2), np.float32)
TEACHER = np.log(np.asarray([[3.0, 1.0]], np.float32))
LABEL = np.asarray([0])
KL = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
BY_HAND = {
  'kd': (losses.kd_loss, (STUDENT, TEACHER), KL),
  # Each class: -t log(1/2) - (1 - t) log(1/2).
  'binary_kd': (losses.binary_kd_loss, (STUDENT, TEACHER), np.log(2)),
  # With two classes the "others" are one class: nothing beside TCKD.
  'dkd': (losses.dkd_loss, (STUDENT, TEACHER, LABEL), KL),
  'ofa': (losses.ofa_loss, (STUDENT, TEACHER, LABEL), np.log(2)),
  'cross_entropy': (losses.cross_entropy, (TEACHER, LABEL), -np.log(0.75)),
  # sigmoid(log 3) = 3/4 for the target, 1 - sigmoid(0) = 1/2 for the other.
  'binary_cross_entropy': (
    losses.binary_cross_entropy,
    (TEACHER, LABEL),
    -(np.log(0.75) + np.log(0.5)) / 2,
  ),
}


@pytest.mark.parametrize('case', BY_HAND)
def test_two_classes_by_hand(case):
  loss_fn, arrays, expected = BY_HAND[case]
  np.testing.assert_allclose(loss_fn(*arrays), [expected], rtol=1e-6)


def test_smoothing_of_the_sigmoid_loss_by_hand():
  loss = losses.binary_cross_entropy(TEACHER, LABEL, label_smoothing=0.2)
  # Targets 0.9 and 0.1; sigmoid(log 3) = 3/4 and sigmoid(0) = 1/2.
  own = -0.9 * np.log(0.75) - 0.1 * np.log(0.25)
  np.testing.assert_allclose(loss, [(own + np.log(2)) / 2], rtol=1e-6)


def test_dist_by_hand():
  # Rows (1/2, 1/2) of the student have no spread: correlation 0, inter 1.
  # With examples that swap the teacher's classes, equal rows correlate by 1
  # and swapped rows by -1.
  teacher = np.concatenate([TEACHER, TEACHER[:, ::-1]])
  np.testing.assert_allclose(
    losses.dist_loss(np.zeros_like(teacher), teacher), 2.0, rtol=1e-5
  )
  np.testing.assert_allclose(losses.dist_loss(teacher, teacher), 0, atol=1e-5)
  np.testing.assert_allclose(
    losses.dist_loss(
      teacher[::-1], teacher, beta=3.0, gamma=0.5, temperature=2
    ),
    4 * (3.0 * 2 + 0.5 * 2),
    rtol=1e-5,
  )


def test_ofa_exponent_weighs_all_classes():
  # Weights 1.75^2 - 1 for the target, 0.25^2 for the other, each times log 2.
  np.testing.assert_allclose(
    losses.ofa_loss(STUDENT, TEACHER, LABEL, exponent=2.0),
    [(1.75**2 - 1 + 0.25**2) * np.log(2)],
    rtol=1e-6,
  )


def test_temperature_softens_both_sides():
  for loss_fn, arrays, expected in (BY_HAND['kd'], BY_HAND['dkd']):
    np.testing.assert_allclose(
      loss_fn(2 * arrays[0], 2 * arrays[1], *arrays[2:], temperature=2.0),
      [4 * expected],
      rtol=1e-6,
    )


def test_dkd_with_the_right_beta_is_kd():
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 1, 6)).astype('f')
  rest = 1 - jax.nn.softmax(teacher)[0, 4]
  np.testing.assert_allclose(
    losses.dkd_loss(student, teacher, np.asarray([4]), beta=rest),
    losses.kd_loss(student, teacher),
    rtol=1e-5,
  )


@pytest.mark.parametrize('loss_fn', [losses.dkd_loss, losses.ofa_loss])
def test_soft_labels_count_by_their_largest(loss_fn):
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 5, 6)).astype('f')
  soft = rng.dirichlet(np.ones(6), size=5).astype('f')
  np.testing.assert_array_equal(
    loss_fn(student, teacher, soft),
    loss_fn(student, teacher, soft.argmax(axis=1)),
  )


@pytest.mark.parametrize('scale', [0.0, 50.0, 5000.0])
@pytest.mark.parametrize('case', CASES)
def test_extreme_logits_have_finite_gradients(case, scale, loss_and_gradient):
  loss_fn, takes_labels, options = CASES[case]
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 8, 10)).astype('f') * scale
  labels = (np.arange(8),) if takes_labels else ()
  loss, gradient = loss_and_gradient(
    loss_fn, student, teacher, *labels, **options
  )
  assert np.isfinite(loss)
  assert np.isfinite(gradient).all()
