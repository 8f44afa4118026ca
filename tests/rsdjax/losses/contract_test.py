"""What every loss promises, tested on all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsdjax import losses

BATCH, CLASSES = 32, 12
CRD_STATE = losses.CRDState(
  *np.random.default_rng(2).random((2, CLASSES, CLASSES), np.float32) - 0.5,
  normalisers=np.asarray([7.0, 9.0], np.float32),
)


def crd_loss(student, teacher, labels, axis_name=None):
  """A later step, so that the normalisers are constants."""
  negatives = (labels[:, None] + np.arange(1, 6)[None]) % CLASSES
  per_example, _ = losses.crd_loss(
    student, teacher, labels, negatives, CRD_STATE, axis_name=axis_name
  )
  return per_example


def parts_of_rsd(student, teacher, axis_name=None):
  invariance = losses.invariance_loss(student, teacher, axis_name=axis_name)
  return invariance + losses.decorrelation_loss(
    student, teacher, kappa=0.5, axis_name=axis_name
  )


def over_batch(loss):
  """A batch-coupled loss that can extend over devices."""
  return lambda s, t, y, axis_name=None: loss(s, t, axis_name=axis_name)


def on_pair(loss, **options):
  return lambda s, t, y, axis_name=None: loss(s, t, **options)


def on_pair_and_labels(loss, **options):
  return lambda s, t, y, axis_name=None: loss(s, t, y, **options)


def on_labels(loss, **options):
  return lambda s, t, y, axis_name=None: loss(s, y, **options)


PER_EXAMPLE = {
  'kd': on_pair(losses.kd_loss, temperature=2.0),
  'binary_kd': on_pair(losses.binary_kd_loss),
  'dkd': on_pair_and_labels(losses.dkd_loss, temperature=2.0),
  'ofa': on_pair_and_labels(losses.ofa_loss, exponent=1.5),
  'cross_entropy': on_labels(losses.cross_entropy, label_smoothing=0.1),
  'binary_cross_entropy': on_labels(losses.binary_cross_entropy),
  'fitnet': lambda s, t, y, axis_name=None: losses.fitnet_loss([s], [t]),
  'crd': crd_loss,
}
OVER_BATCH = {
  'rsd': over_batch(losses.rsd_loss),
  'rsd_parts': over_batch(parts_of_rsd),
  'dist': over_batch(losses.dist_loss),
}
PER_DEVICE = {'rkd': on_pair(losses.rkd_loss), 'cc': on_pair(losses.cc_loss)}
LOSSES = PER_EXAMPLE | OVER_BATCH | PER_DEVICE
# Their linear embedding of the teacher is trained.
TRAINS_TEACHER_SIDE = {'cc', 'crd'}

every_loss = pytest.mark.parametrize('name', LOSSES)


@functools.cache
def examples():
  """Weights of a linear student, its inputs, teacher outputs and labels."""
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(CLASSES, CLASSES)) / CLASSES**0.5
  student, teacher = rng.normal(size=(2, BATCH, CLASSES)) * 2
  labels = rng.integers(CLASSES, size=BATCH, dtype=np.int32)
  return *(x.astype('f') for x in (weights, student, teacher)), labels


@pytest.fixture
def arrays():
  return examples()[1:]


@functools.cache
def float64_loss_and_gradient(name, num_groups):
  """On one device, over the whole batch or the mean of groups of it."""
  weights, *arrays = examples()
  with jax.enable_x64(True):
    student, teacher, labels = (
      x.reshape(num_groups, -1, *x.shape[1:]) for x in arrays
    )

    @jax.jit
    @jax.value_and_grad
    def loss_fn(weights):
      groups = np.float64(student) @ weights, np.float64(teacher), labels
      return jax.vmap(LOSSES[name])(*groups).mean()

    return jax.device_get(loss_fn(np.float64(weights)))


@every_loss
def test_the_same_with_and_without_jit(name, arrays):
  compiled = jax.jit(LOSSES[name])(*arrays)
  with jax.disable_jit():
    eager = LOSSES[name](*arrays)
  np.testing.assert_allclose(eager, compiled, rtol=1e-5, atol=1e-6)


@every_loss
def test_jit_vmap_and_devices_agree(name, run):
  value, gradient = run(LOSSES[name], *examples())

  num_groups = run.num_devices if name in PER_DEVICE else 1
  expected, expected_gradient = float64_loss_and_gradient(name, num_groups)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(
    gradient,
    expected_gradient,
    rtol=0,
    atol=1e-6 * np.abs(expected_gradient).max(),
  )


@pytest.mark.parametrize('name', OVER_BATCH)
def test_every_device_has_the_loss_of_the_whole_batch(name, arrays):
  shares = [x.reshape(4, -1, *x.shape[1:]) for x in arrays]
  each = jax.vmap(
    functools.partial(LOSSES[name], axis_name='batch'), axis_name='batch'
  )(*shares)
  whole = LOSSES[name](*arrays)
  np.testing.assert_allclose(each, np.full(4, whole), rtol=1e-6)


@every_loss
def test_result_is_float32_of_the_promised_shape(name, arrays):
  result = LOSSES[name](*arrays)
  assert result.dtype == np.float32
  assert result.shape == ((BATCH,) if name in PER_EXAMPLE else ())


@every_loss
def test_gradients_reach_the_teacher_only_where_promised(name, arrays):
  student, teacher, labels = arrays
  gradient = jax.jit(
    jax.grad(lambda teacher: LOSSES[name](student, teacher, labels).sum())
  )(teacher)
  assert np.any(np.asarray(gradient)) == (name in TRAINS_TEACHER_SIDE)


@every_loss
def test_bfloat16_in_is_computed_in_float32(name, arrays):
  *pair, labels = arrays
  low = [jnp.asarray(x, jnp.bfloat16) for x in pair]

  result = LOSSES[name](*low, labels)

  assert result.dtype == np.float32
  expected = LOSSES[name](*(x.astype(jnp.float32) for x in low), labels)
  np.testing.assert_allclose(result, expected, rtol=1e-6)


SWEPT = [
  (losses.rsd_loss, {'kappa': 0.01}),
  (losses.decorrelation_loss, {'kappa': 0.01}),
  (losses.kd_loss, {'temperature': 4.0}),
  (losses.dist_loss, {'beta': 1.0, 'gamma': 2.0, 'temperature': 4.0}),
  (losses.rkd_loss, {'distance_weight': 1.0, 'angle_weight': 2.0}),
  (losses.cc_loss, {'scale': 0.1}),
  (losses.dkd_loss, {'alpha': 1.0, 'beta': 2.0, 'temperature': 4.0}),
  (losses.ofa_loss, {'exponent': 1.5, 'temperature': 4.0}),
]


@pytest.mark.parametrize('loss, options', SWEPT)
def test_swept_options_do_not_retrace(loss, options, arrays):
  takes_labels = loss in (losses.dkd_loss, losses.ofa_loss)
  arguments = arrays if takes_labels else arrays[:2]
  loss(*arguments, **options)
  num_traces = loss._cache_size()
  loss(*arguments, **options)
  loss(*arguments, **{name: 2 * value for name, value in options.items()})
  assert loss._cache_size() == num_traces


ROWS = np.zeros((4, 3), np.float32)
LABELS = np.zeros(4, np.int32)


@pytest.mark.parametrize(
  'loss',
  [
    losses.rsd_loss,
    losses.invariance_loss,
    losses.decorrelation_loss,
    losses.cross_correlation,
    losses.cc_loss,
    losses.kd_loss,
    losses.binary_kd_loss,
    losses.dist_loss,
    functools.partial(losses.dkd_loss, labels=LABELS),
    functools.partial(losses.ofa_loss, labels=LABELS),
  ],
)
@pytest.mark.parametrize(
  'student, teacher, message',
  [
    (
      ROWS,
      ROWS[:, :2],
      r'float32\[4, 3\] and teacher.* float32\[4, 2\] .*same',
    ),
    (ROWS, ROWS[:3], r'teacher.* float32\[3, 3\] must have the same shape'),
    (ROWS[0], ROWS[0], r'student.* float32\[3\] .* must have 2 axes'),
    (ROWS, ROWS.astype(int), r'teacher.* int32\[4, 3\] must be .* floating'),
  ],
)
def test_pairs_that_do_not_fit_raise(loss, student, teacher, message):
  with pytest.raises(ValueError, match=message):
    loss(student, teacher)


@pytest.mark.parametrize(
  'loss',
  [
    losses.cross_entropy,
    losses.binary_cross_entropy,
    functools.partial(losses.dkd_loss, ROWS),
    functools.partial(losses.ofa_loss, ROWS),
  ],
)
@pytest.mark.parametrize(
  'labels, message',
  [
    (LABELS[:3], r'float32\[4, 3\] and labels int32\[3\] .* same batch size'),
    (LABELS[:, None], r'labels int32\[4, 1\] must have 1 axes'),
    (ROWS[:, :2], r'labels float32\[4, 2\] must have the same shape'),
  ],
)
def test_labels_that_do_not_fit_raise(loss, labels, message):
  with pytest.raises(ValueError, match=message):
    loss(ROWS, labels)
