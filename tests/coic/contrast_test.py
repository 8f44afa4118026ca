"""The pass of query and momentum encoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic.contrast import contrast
from coic.encoder import Encoder
from coic.tensor_names.encoder import RULES
from common import distributed, weight_conversion

SMALL = Encoder(4, 8)


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, -3, -1))


def assert_close(actual, desired, tolerance=1e-5):
  scale = max(1, np.abs(desired).max())
  np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def test_reference(golden):
  arrays = golden('coic/contrastive_encoders.npz')
  encoder = Encoder(4, 16)
  images = [nhwc(arrays[f'im_{kind}']) for kind in ('q', 'k', 'negs')]
  template = jax.eval_shape(encoder.init, jax.random.key(0), images[0])

  def tensors(prefix):
    return {k[2:]: x for k, x in arrays.items() if k.startswith(prefix)}

  sides = []
  for prefix in ('q/', 'k/'):
    found, differences = weight_conversion.from_torch(
      tensors(prefix), template, RULES
    )
    assert not differences, differences
    variables = weight_conversion.unflatten(found)
    sides += [variables['params'], variables['batch_stats']]

  @jax.jit
  def run(params, *others):
    def objective(params):
      result = contrast(
        encoder,
        params,
        *others,
        momentum=float(arrays['momentum']),
        temperature=arrays['temperature'],
      )
      return result.loss.mean(), result

    return jax.grad(objective, has_aux=True)(params)

  gradients, result = run(*sides, *images)
  assert_close(result.z, arrays['z'])
  logits = arrays['logits']
  loss = np.log(np.exp(logits).sum(1)) - logits[:, 0]
  assert_close(result.loss, loss)
  assert_close(result.loss.mean(), arrays['loss'])
  for prefix, variables in {
    'q_after/': {'batch_stats': result.batch_stats},
    'k_after/': {
      'params': result.momentum_params,
      'batch_stats': result.momentum_batch_stats,
    },
  }.items():
    named = weight_conversion.to_torch(variables, RULES)
    expected = {
      name.removeprefix(prefix): x
      for name, x in arrays.items()
      if name.startswith(prefix)
    }
    assert named.keys() == expected.keys()
    for name, value in expected.items():
      assert_close(named[name], value)
  named = weight_conversion.to_torch({'params': gradients}, RULES)
  for name, value in arrays.items():
    if name.startswith('grad_q/'):
      assert_close(named[name.removeprefix('grad_q/')], value, 1e-4)
  for name in arrays['q_params_without_gradient']:
    np.testing.assert_array_equal(named[name], 0)


@pytest.fixture(scope='module')
def sides():
  """Params and statistics of a query and another momentum encoder, images."""
  images = jax.random.uniform(jax.random.key(0), (4, 4, 16, 16, 3))
  query, key, negatives = images[0], images[1], images[2:].swapaxes(0, 1)
  init = jax.jit(SMALL.init)
  both = [init(jax.random.key(i), query) for i in (1, 2)]
  variables = [v[kind] for v in both for kind in ('params', 'batch_stats')]
  return variables, (query, key, negatives)


def step(variables, images, *, axis_name=None):
  """Gradients for the parameters of both encoders, and the result."""
  encoder = SMALL.clone(axis_name=axis_name)

  def objective(params, momentum_params):
    result = contrast(
      encoder,
      params,
      variables[1],
      momentum_params,
      variables[3],
      *images,
      momentum=0.75,
      temperature=0.5,
    )
    state = distributed.pmean(result._replace(loss=0, z=0), axis_name)
    loss = distributed.pmean(result.loss.mean(), axis_name)
    return loss, (result.loss, result.z, state)

  gradients, rest = jax.grad(objective, argnums=(0, 1), has_aux=True)(
    variables[0], variables[2]
  )
  return distributed.pmean(gradients, axis_name), rest


@pytest.fixture(scope='module')
def stepped(sides):
  return jax.jit(step)(*sides)


def test_by_hand(sides, stepped):
  variables, (query, key, negatives) = sides
  params, batch_stats, momentum_params, momentum_batch_stats = variables
  _, (loss, z, result) = stepped

  @jax.jit
  def encode(params, batch_stats, image):
    return SMALL.apply(
      {'params': params, 'batch_stats': batch_stats},
      image,
      train=True,
      mutable=['batch_stats'],
    )

  encoding, state = encode(params, batch_stats, query)
  assert_close(z, encoding.embedding, 1e-6)
  moved = jax.tree.map(
    lambda p, m: 0.25 * p + 0.75 * m, params, momentum_params
  )
  others, momentum_state = encode(
    moved, momentum_batch_stats, jnp.concatenate([key, *negatives])
  )
  for actual, expected in (
    (result.batch_stats, state['batch_stats']),
    (result.momentum_params, moved),
    (result.momentum_batch_stats, momentum_state['batch_stats']),
  ):
    jax.tree.map(assert_close, actual, expected)
  for i, own in enumerate(encoding.features):
    rows = np.array([i, 4 + 2 * i, 5 + 2 * i])
    cosines = (own[None] * others.features[rows]).sum(-1).mean((1, 2))
    exponentials = np.exp(cosines / 0.5)
    assert_close(loss[i], -np.log(exponentials[0] / exponentials.sum()))


def test_gradients_go_into_the_convolutions_of_the_query_encoder(stepped):
  (in_query, in_momentum), _ = stepped
  assert not any(np.any(x) for x in jax.tree.leaves(in_momentum))
  for module, gradients in in_query.items():
    learns = any(np.any(x) for x in jax.tree.leaves(gradients))
    assert learns != module.startswith('linear')


def test_two_devices_with_statistics_over_both_equal_one(sides, stepped):
  mesh = distributed.make_mesh(jax.devices()[:2])
  axis = distributed.AXIS_NAME
  everywhere, split = jax.P(), jax.P(axis)
  mapped = jax.shard_map(
    functools.partial(step, axis_name=axis),
    mesh=mesh,
    in_specs=(everywhere, split),
    out_specs=(everywhere, (split, split, everywhere)),
  )
  jax.tree.map(assert_close, jax.jit(mapped)(*sides), stepped)


def test_errors(sides):
  variables, (query, key, negatives) = sides
  for images, match in (
    ((query, key[:2], negatives), 'same shape'),
    ((query, key, negatives[:2]), 'same batch size'),
    ((query, key, negatives[:, :, :8]), 'negative_images .* of the size'),
    ((query, key, negatives[:, 0]), 'must have 5 axes'),
  ):
    with pytest.raises(ValueError, match=match):
      jax.eval_shape(
        lambda *images: contrast(SMALL, *variables, *images), *images
      )
