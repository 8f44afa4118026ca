"""One step under jit, shard_map and pmap: the same loss and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import distributed, steps


def _step(state, batch, scale, *, axis_name=None):
  """Loss and gradient of a linear fit that also uses global statistics."""

  def loss_fn(weights):
    error = batch['x'] @ weights - batch['y']
    mean = distributed.pmean(error.mean(), axis_name)
    local = jnp.square(error - 0.5 * mean).mean() * scale
    return distributed.pmean(local, axis_name)

  loss, gradient = jax.value_and_grad(loss_fn)(state)
  gradient = distributed.pmean(gradient, axis_name)
  return state - 0.1 * gradient, {'loss': loss, 'gradient': gradient}


@pytest.fixture(scope='module')
def problem():
  rng = np.random.default_rng(0)
  batch = {
    'x': rng.normal(size=(16, 3)).astype(np.float32),
    'y': rng.normal(size=16).astype(np.float32),
  }
  return jnp.asarray(rng.normal(size=3), jnp.float32), batch, jnp.float32(2.0)


@pytest.mark.parametrize('parallelism', distributed.PARALLELISMS)
@pytest.mark.parametrize('devices', [1, 2, 8])
def test_many_devices_equal_one(problem, parallelism, devices):
  state, batch, scale = problem
  expected = jax.jit(_step)(state, batch, scale)
  mesh = distributed.make_mesh(jax.devices()[:devices])
  mapped = steps.map_step(
    functools.partial(_step, axis_name=distributed.AXIS_NAME),
    mesh,
    parallelism=parallelism,
  )
  sharded = distributed.shard_batch(batch, mesh, parallelism)
  actual = mapped(distributed.replicate(state, mesh), sharded, scale)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), actual, expected
  )
  # The new state has no device axis, and goes straight into the next step.
  again, _ = mapped(actual[0], sharded, scale)
  assert again.shape == state.shape


def test_unknown_parallelism_is_named():
  with pytest.raises(ValueError, match="'xmap' must be one of shard_map, pmap"):
    steps.map_step(_step, distributed.make_mesh(), parallelism='xmap')


def test_indivisible_batch_is_named():
  with pytest.raises(ValueError, match=r'batch_size 12 .* the 8 devices'):
    distributed.require_divisible(12, distributed.make_mesh())


def test_devices_draw_differently():
  mesh = distributed.make_mesh()

  def draw(key):
    own = distributed.device_key(key, distributed.AXIS_NAME)
    return jax.random.normal(own, (1,))

  drawn = jax.shard_map(
    draw,
    mesh=mesh,
    in_specs=jax.P(),
    out_specs=jax.P(distributed.AXIS_NAME),
  )(jax.random.key(0))
  assert len(np.unique(drawn)) == 8


def test_all_rows_are_the_same_everywhere():
  mesh = distributed.make_mesh()
  rows = jnp.arange(32.0).reshape(16, 2)
  gathered = jax.shard_map(
    lambda x: distributed.all_rows(x, distributed.AXIS_NAME),
    mesh=mesh,
    in_specs=jax.P(distributed.AXIS_NAME),
    out_specs=jax.P(),
  )(rows)
  np.testing.assert_array_equal(gathered, rows)
  assert distributed.all_rows(rows, None) is rows


def test_one_process_waits_for_nobody():
  distributed.wait_for_all('test')


@pytest.mark.parametrize('parallelism', distributed.PARALLELISMS)
def test_own_part_is_what_was_laid_out(parallelism):
  batch = {'image': np.arange(48).reshape(16, 3, 1), 'label': np.arange(16)}
  mesh = distributed.make_mesh()
  sharded = distributed.shard_batch(batch, mesh, parallelism)
  jax.tree.map(
    np.testing.assert_array_equal, distributed.own_part(sharded), batch
  )


def test_on_one_device():
  tree = {'x': jnp.arange(4), 'rng': jax.random.key(1)}
  shared = distributed.replicate(tree, distributed.make_mesh())
  local = distributed.on_one_device(shared)
  assert local['x'].devices() == local['rng'].devices() == {jax.devices()[0]}
  assert local['x'].tolist() == [0, 1, 2, 3]
  assert jax.random.key_data(local['rng']).tolist() == [0, 1]
