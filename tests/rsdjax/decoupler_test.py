import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rsdjax import losses
from rsdjax.decoupler import Decoupler

# Teacher width, student width, parameters counted on the published program.
PARAMETER_COUNTS = [
  (768, 512, 1_312_768),
  (384, 512, 919_552),
  (768, 1280, 5_248_000),
  (384, 1280, 4_264_960),
  (768, 192, 369_408),
  (768, 384, 886_272),
  (2048, 512, 2_623_488),
  (2048, 192, 860_928),
  (192, 512, 722_944),
]


def initialise(features, embedding, **options):
  decoupler = Decoupler(features, **options)
  init = jax.jit(functools.partial(decoupler.init, train=True))
  return decoupler, init(jax.random.key(0), embedding)


@pytest.mark.parametrize('teacher_dim, student_dim, count', PARAMETER_COUNTS)
def test_parameter_count(teacher_dim, student_dim, count):
  embedding = jax.ShapeDtypeStruct((2, student_dim), jnp.float32)
  variables = jax.eval_shape(
    lambda x: Decoupler(teacher_dim).init(jax.random.key(0), x, train=True),
    embedding,
  )
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == count


def test_initialisation():
  _, variables = initialise(300, jnp.ones((2, 200)), expansion=3)
  params = variables['params']
  for layer in ('expand', 'project'):
    kernel = params[layer].pop('kernel')
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.02)
    np.testing.assert_allclose(kernel.mean(), 0, atol=2e-4)
    assert not params[layer]  # No bias.
  np.testing.assert_array_equal(params['norm']['scale'], np.ones(600))
  np.testing.assert_array_equal(params['norm']['bias'], np.zeros(600))


def test_one_unit_by_hand():
  # Batch (-1, 3), doubled: mean 2, biased variance 16, unbiased 32. BatchNorm
  # gives -1 and +1 (but for its epsilon), times 3 at the end.
  decoupler = Decoupler(1, expansion=1)
  variables = {
    'params': {
      'expand': {'kernel': jnp.asarray([[2.0]])},
      'norm': {'scale': jnp.ones(1), 'bias': jnp.zeros(1)},
      'project': {'kernel': jnp.asarray([[3.0]])},
    },
    'batch_stats': {'norm': {'mean': jnp.zeros(1), 'var': jnp.ones(1)}},
  }
  embedding = jnp.asarray([[-1.0], [3.0]])

  out, updates = decoupler.apply(
    variables, embedding, train=True, mutable=['batch_stats']
  )

  # Exact GELU: x * Phi(x), with Phi(1) = 0.841344746.
  np.testing.assert_allclose(
    out, [[-3 * (1 - 0.841344746)], [3 * 0.841344746]], rtol=1e-5
  )
  np.testing.assert_allclose(updates['batch_stats']['norm']['mean'], [0.2])
  np.testing.assert_allclose(
    updates['batch_stats']['norm']['var'], [0.9 + 0.1 * 32], rtol=1e-6
  )
  # Running statistics of mean 0 and variance 1 leave (-2, 6) as they are.
  np.testing.assert_allclose(
    decoupler.apply(variables, embedding, train=False),
    3 * nn.gelu(2 * embedding, approximate=False),
    rtol=1e-4,
  )


def test_bfloat16_stays_close_and_keeps_float32_statistics():
  embedding = np.random.default_rng(0).normal(size=(32, 16)).astype('f')
  full, variables = initialise(8, embedding)
  low = Decoupler(8, dtype=jnp.bfloat16)

  @functools.partial(jax.jit, static_argnums=0)
  def train(decoupler):
    return decoupler.apply(
      variables, embedding, train=True, mutable=['batch_stats']
    )

  expected, _ = train(full)
  out, updates = train(low)

  assert out.dtype == jnp.bfloat16
  # Two matrix products with 8 bits of mantissa each.
  np.testing.assert_allclose(
    np.float32(out), expected, rtol=0, atol=0.03 * np.abs(expected).max()
  )
  assert updates['batch_stats']['norm']['var'].dtype == jnp.float32


@pytest.mark.parametrize(
  'embedding, message',
  [
    (np.zeros((2, 3, 4), 'f'), r'embedding float32\[2, 3, 4\] .* 2 axes'),
    (np.zeros((2, 3), int), r'embedding int32\[2, 3\] .* floating'),
  ],
)
def test_embeddings_that_do_not_fit_raise(embedding, message):
  with pytest.raises(ValueError, match=message):
    initialise(4, jnp.asarray(embedding))


def test_distilling_raises_the_diagonal_and_lowers_the_rest():
  rng = np.random.default_rng(0)
  images = rng.normal(size=(256, 20)).astype('f')
  # A teacher with nearly uncorrelated dimensions: only then can P be diagonal.
  axes, _ = np.linalg.qr(rng.normal(size=(20, 12)))
  teacher = np.tanh(images @ axes.astype('f'))
  decoupler, variables = initialise(12, jnp.zeros((256, 16)))
  student = rng.normal(size=(20, 16)).astype('f') / 20**0.5
  params = {'student': student, 'decoupler': variables['params']}
  tx = optax.adam(1e-2)

  def embed(params):
    return decoupler.apply(
      {**variables, 'params': params['decoupler']},
      images @ params['student'],
      train=True,
      mutable=['batch_stats'],
    )[0]

  @jax.jit
  def train_step(params, opt_state):
    loss, gradient = jax.value_and_grad(
      lambda params: losses.rsd_loss(embed(params), teacher)
    )(params)
    updates, opt_state = tx.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  def diagonal_and_rest(params):
    correlation = np.abs(losses.cross_correlation(embed(params), teacher))
    off_diagonal = ~np.eye(12, dtype=bool)
    return np.diagonal(correlation).mean(), correlation[off_diagonal].mean()

  diagonal_before, rest_before = diagonal_and_rest(params)
  opt_state = tx.init(params)
  history = []
  for _ in range(100):
    params, opt_state, loss = train_step(params, opt_state)
    history.append(loss)
  diagonal, rest = diagonal_and_rest(params)

  assert history[-1] < history[0] / 10
  assert diagonal > 0.9 > diagonal_before + 0.5
  assert rest < rest_before / 1.5
