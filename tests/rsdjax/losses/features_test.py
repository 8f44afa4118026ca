import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsdjax import losses
from rsdjax.losses import FeatureAligner


def to_ours(feature):
  """Maps become channel-last, tokens stay."""
  return feature.transpose(0, 2, 3, 1) if feature.ndim == 4 else feature


def aligner_variables(numbers, prefix, dtype):
  """The one layer that an aligner of the reference has."""
  (weight,) = (
    value
    for key, value in numbers.items()
    if key.startswith(prefix) and key.endswith('weight')
  )
  (bias,) = (
    value
    for key, value in numbers.items()
    if key.startswith(prefix) and key.endswith('bias')
  )
  kernel = weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
  layer = {'kernel': kernel.astype(dtype), 'bias': bias.astype(dtype)}
  return {'params': {'align': layer}}


@pytest.mark.parametrize(
  'source, case',
  [
    ('shared', 'conv_conv'),
    ('shared', 'conv_tokens'),
    ('shared', 'tokens_conv'),
    ('shared', 'tokens_tokens'),
    ('stored', 'conv_conv'),
  ],
)
def test_loss_and_gradient_match_the_reference(
  source, case, reference, precision
):
  numbers = {
    key.removeprefix(f'fitnet_{case}_'): value
    for key, value in reference(source, 'feature_losses').items()
  }
  prefix_tokens = 2
  aligner = FeatureAligner(
    student_prefix_tokens=prefix_tokens, teacher_prefix_tokens=prefix_tokens
  )

  def feature(side, stage):
    (x,) = precision.cast(to_ours(numbers[f'{side}_stage{stage}']))
    if x.ndim == 3:  # Class tokens are left out, whatever they hold.
      x = np.pad(x, ((0, 0), (prefix_tokens, 0), (0, 0)), constant_values=9.0)
    return x

  @jax.jit
  @jax.value_and_grad
  def loss_fn(students):
    pairs = [
      aligner.apply(
        aligner_variables(numbers, f'param_{stage}.', precision.dtype),
        student,
        feature('teacher', stage),
      )
      for stage, student in students.items()
    ]
    return losses.fitnet_loss(*zip(*pairs, strict=True)).mean()

  loss, gradients = loss_fn(
    {stage: feature('student', stage) for stage in (1, 4)}
  )

  precision.check_loss(loss, numbers['loss64'])
  for stage, gradient in gradients.items():
    expected = to_ours(numbers[f'grad_student_stage{stage}_64'])
    if expected.ndim == 3:
      np.testing.assert_array_equal(gradient[:, :prefix_tokens], 0)
      gradient = gradient[:, prefix_tokens:]
    np.testing.assert_allclose(
      gradient,
      expected,
      rtol=0,
      atol=precision.gradient_rtol * np.abs(expected).max(),
    )


def test_loss_by_hand():
  # Squared differences (1, 9) and (0, 4), means 5 and 2 over two stages.
  student = [jnp.asarray([[1.0, 3.0]]), jnp.asarray([[[0.0], [2.0]]])]
  teacher = [jnp.zeros((1, 2)), jnp.zeros((1, 2, 1))]
  np.testing.assert_allclose(
    losses.fitnet_loss(student, teacher), [0.1 * 7], rtol=1e-6
  )
  np.testing.assert_allclose(
    losses.fitnet_loss(student, teacher, scale=2.0), [14.0], rtol=1e-6
  )


def ones_like_params(aligner, student, teacher):
  """Variables with kernels of one and biases of zero."""
  shapes = jax.eval_shape(aligner.init, jax.random.key(0), student, teacher)
  params = shapes['params']['align']
  return {
    'params': {
      'align': {
        'kernel': jnp.ones(params['kernel'].shape),
        'bias': jnp.zeros(params['bias'].shape),
      }
    }
  }


def test_tokens_of_a_block_are_joined_row_by_row():
  # A 4 x 4 grid of scalar tokens against a 2 x 2 map: the mean of a block is
  # that of its corner numbers 0, 1, 4, 5 and so on.
  student = jnp.arange(16.0).reshape(1, 16, 1)
  teacher = jnp.zeros((1, 2, 2, 1))
  aligner = FeatureAligner()
  variables = ones_like_params(aligner, student, teacher)
  weights = jnp.asarray([1.0, 10.0, 100.0, 1000.0]).reshape(1, 1, 4, 1)
  variables['params']['align']['kernel'] = weights

  aligned, target = aligner.apply(variables, student, teacher)

  assert target is teacher
  np.testing.assert_array_equal(
    aligned[0, :, :, 0], [[5410.0, 7632.0], [14298.0, 16520.0]]
  )


@pytest.mark.parametrize(
  'student, teacher, aligned',
  [
    ((4, 4, 3), (4, 4, 5), (4, 4, 5)),
    ((8, 8, 3), (16, 5), (16, 5)),
    ((4, 4, 3), (16, 5), (16, 5)),
    ((2, 2, 3), (16, 5), (4, 20)),
    ((16, 3), (4, 4, 5), (4, 4, 5)),
    ((16, 3), (8, 8, 5), (8, 8, 5)),
    ((16, 3), (2, 2, 5), (2, 2, 5)),
    ((16, 3), (16, 5), (16, 5)),
    ((16, 3), (4, 5), (4, 5)),
    ((4, 3), (16, 6), (16, 6)),
  ],
)
def test_aligned_shapes(student, teacher, aligned):
  student, teacher = (
    jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    for shape in (student, teacher)
  )
  init = FeatureAligner(dtype=jnp.bfloat16).init_with_output
  (result, target), _ = jax.eval_shape(
    init, jax.random.key(0), student, teacher
  )
  assert result.shape == target.shape == (2, *aligned)
  assert result.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'student, limit', [((8, 8, 30), 120**-0.5), ((16, 30), 30**-0.5)]
)
def test_initialisation_is_uniform_over_the_fan_in(student, limit):
  student, teacher = jnp.ones((2, *student)), jnp.ones((2, 16, 100))
  variables = jax.jit(FeatureAligner().init)(
    jax.random.key(0), student, teacher
  )
  for values in variables['params']['align'].values():
    largest = np.abs(values).max()
    assert 0.9 * limit < largest <= limit


@pytest.mark.parametrize(
  'student, teacher, message',
  [
    ((4, 4, 3), (2, 2, 3), r'student \[2, 4, 4, 3\] .* same height and width'),
    ((4, 4, 3), (17, 3), r'tokens \[2, 17, 3\] do not form a square'),
    ((5, 5, 3), (4, 3), '5 is not a multiple of 2'),
    ((2, 4, 3), (4, 3), r'map \[2, 2, 4, 3\] must be square'),
    ((4, 3), (3, 3, 3), '3 is not a multiple of 2'),
    ((9, 3), (4, 3), '3 is not a multiple of 2'),
    ((4, 3), (9, 2), '18 is not a multiple of 4'),
    ((4, 3), (16, 2), '8 is not a multiple of 3'),
    ((3,), (3,), r'student \[2, 3\] and teacher \[2, 3\] must be maps'),
  ],
)
def test_features_that_do_not_fit_raise(student, teacher, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      FeatureAligner().init,
      jax.random.key(0),
      jnp.ones((2, *student)),
      jnp.ones((2, *teacher)),
    )


@pytest.mark.parametrize(
  'student, teacher, message',
  [
    ([(2, 3)], [(2, 3), (2, 3)], '1 student_features do not match 2'),
    ([], [], '0 student_features do not match 0'),
    ([(2, 3)], [(2, 4)], r'float32\[2, 3\] and .*\[2, 4\] .* the same shape'),
  ],
)
def test_losses_of_features_that_do_not_fit_raise(student, teacher, message):
  with pytest.raises(ValueError, match=message):
    losses.fitnet_loss(*([jnp.ones(s) for s in x] for x in (student, teacher)))
