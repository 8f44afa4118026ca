"""Accumulated gradients, and optimiser states that lie on many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common import distributed, steps
from common.layers import BatchNorm
from common.train_state import TrainState

AXIS = distributed.AXIS_NAME
TX = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1))


def parts(axis_name=None, accumulation_steps=1, coupled=False):
  """A step of a linear model, with a norm over the batch or without."""
  norm = BatchNorm()

  def loss_fn(params, model_state, batch, part):
    x = batch['x'] @ params['model']['kernel'] + params['model']['bias'][None]
    if coupled:
      x, of_norm = norm.apply(
        {'params': params['norm'], **model_state['norm']},
        x,
        train=True,
        mutable=['batch_stats'],
      )
      model_state = {**model_state, 'norm': of_norm}
    loss = jnp.square(x - batch['y']).mean()
    return {'loss': loss, 'part': jnp.float32(part)}, model_state

  def find(state, batch):
    return steps.differentiate(
      loss_fn,
      state.params,
      state.model_state,
      batch,
      accumulation_steps=accumulation_steps,
      axis_name=axis_name,
    )

  def update(state, found):
    new = state.apply_gradients(found.gradients, found.model_state, TX)
    return new, found.terms | steps.norms(state, found)

  return steps.Step(find, update)


def first_state():
  variables = BatchNorm().init(jax.random.key(0), jnp.zeros((2, 8)), train=True)
  params = {
    'model': {
      'kernel': jax.random.normal(jax.random.key(1), (4, 8)),
      'bias': jnp.zeros(8),
    },
    'norm': variables['params'],
  }
  return TrainState.create(
    params=params,
    model_state={'norm': {'batch_stats': variables['batch_stats']}},
    tx=TX,
    rng=jax.random.key(0),
  )


def make_batch(rows=16):
  rng = np.random.default_rng(0)
  return {
    'x': rng.normal(size=(rows, 4)).astype(np.float32),
    'y': rng.normal(size=(rows, 8)).astype(np.float32),
  }


def assert_same(actual, expected):
  for part in ('params', 'model_state', 'opt_state'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      getattr(actual, part),
      getattr(expected, part),
    )


def test_parts_of_a_batch_are_the_batch():
  expected, metrics = jax.jit(parts())(first_state(), make_batch())
  actual, in_parts = jax.jit(parts(accumulation_steps=4))(
    first_state(), make_batch()
  )
  assert_same(actual, expected)
  np.testing.assert_allclose(in_parts['loss'], metrics['loss'], rtol=1e-6)
  assert in_parts['part'] == 1.5


@pytest.mark.parametrize('parallelism', distributed.PARALLELISMS)
def test_statistics_are_those_of_a_part(parallelism):
  # Four parts on two devices are parts of an eighth: as on eight devices, but
  # that the running statistics move four times.
  mesh = distributed.make_mesh(jax.devices()[:2])
  step = parts(AXIS, accumulation_steps=4, coupled=True)
  actual, metrics = steps.map_step(step, mesh, parallelism=parallelism)(
    first_state(), distributed.shard_batch(make_batch(), mesh, parallelism)
  )
  every = distributed.make_mesh()
  expected, expected_metrics = steps.map_step(parts(AXIS, coupled=True), every)(
    first_state(), distributed.shard_batch(make_batch(), every)
  )
  np.testing.assert_allclose(
    metrics['loss'], expected_metrics['loss'], rtol=1e-6
  )
  assert_same(actual.replace(model_state=expected.model_state), expected)


def test_parts_must_divide_the_rows():
  with pytest.raises(ValueError, match='steps 3 must divide the 16 rows of'):
    parts(accumulation_steps=3)(first_state(), make_batch())


def test_sharded_optimiser_state():
  mesh = distributed.make_mesh()
  step = parts(AXIS)
  traces = []

  def find(*arguments):
    traces.append(None)
    return step.find(*arguments)

  expected = first_state()
  actual = distributed.place(first_state(), mesh, shard_optimizer=True)
  batch = distributed.shard_batch(make_batch(), mesh)
  whole = steps.map_step(step, mesh)
  sharded = steps.map_step(
    steps.Step(find, step.update), mesh, shard_optimizer=True, donate_state=True
  )
  for _ in range(3):
    expected, _ = whole(expected, batch)
    actual, _ = sharded(actual, batch)
  assert_same(actual, expected)
  moment = actual.opt_state[1][0].mu['model']['kernel']
  assert moment.shape == (4, 8)
  assert {x.data.shape for x in moment.addressable_shards} == {(4, 1)}
  kernel = actual.params['model']['kernel']
  assert {x.data.shape for x in kernel.addressable_shards} == {(4, 8)}
  assert len(traces) == 1


def test_what_pmap_cannot_do():
  with pytest.raises(ValueError, match="'pmap' cannot shard the optimiser"):
    steps.map_step(
      parts(AXIS),
      distributed.make_mesh(),
      parallelism='pmap',
      shard_optimizer=True,
    )


def test_a_mapped_step_goes_into_a_program_of_ones_own():
  """Though options of the compiler are for outermost programs only."""
  mesh = distributed.make_mesh(jax.devices()[:2])
  mapped = steps.map_step(parts(AXIS), mesh, least_memory=True)
  state = distributed.place(first_state(), mesh)
  batch = distributed.shard_batch(make_batch(), mesh)
  once, _ = mapped(state, batch)
  twice, _ = mapped(once, batch)

  @jax.jit
  def both(state):
    return jax.lax.fori_loop(0, 2, lambda _, x: mapped(x, batch)[0], state)

  assert_same(both(state), twice)
