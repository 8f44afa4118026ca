"""One update, against stored iterations and on many devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common import distributed, optimizers, steps, train_state
from common.train_state import TrainState
from trnr import attenuation, convert, models, train


def outer_optimizer(schedule):
  return optimizers.make_optimizer(
    'adam', learning_rate=schedule, weight_decay=4e-5, clip_value=10.0
  )


def state_of(variables, tx):
  params, rest = train_state.collections_of(
    {k: variables[k] for k in ('params', 'batch_stats')}
  )
  return TrainState.create(
    params={'network': params},
    model_state={
      'network': rest,
      'inner_learning_rates': variables['inner_learning_rates'],
    },
    tx=tx,
    rng=jax.random.key(0),
  )


@pytest.mark.slow
def test_stored_iterations(golden, published):
  stored, variables = (
    golden('trnr/training_rain100l.npz'),
    published('rain100l'),
  )
  rates = jnp.asarray([stored[f'it{i}_lr_used'] for i in range(3)], 'f4')
  network = models.create('msresnet')
  tx = outer_optimizer(lambda count: rates[count])
  step = jax.jit(train.make_task_step(network, tx))
  state = state_of(variables, tx)
  for i in range(3):
    tasks = {
      part: {
        'input': np.moveaxis(stored[f'it{i}_{part}_x'], 2, -1),
        'target': np.moveaxis(stored[f'it{i}_{part}_y'], 2, -1),
      }
      for part in ('support', 'query')
    }
    state, metrics = step(state, tasks)
    np.testing.assert_allclose(
      metrics['loss'], stored[f'it{i}_loss'], atol=5e-4
    )
    if i == 0:
      by_name = convert.to_torch(
        {
          'params': state.params['network'],
          **state.model_state['network'],
        }
      )
      for tensor, name in (
        ('head_weight', 'head.weight'),
        ('body2_msb_bn_weight', 'body2.msb.layer_dict.bn.weight'),
        ('bn_tail_bias', 'bn_tail.bias'),
        ('tail_weight', 'tail.weight'),
        ('bn_tail_r_mean', 'bn_tail.r_mean'),
        ('bn_tail_r_var', 'bn_tail.r_var'),
      ):
        np.testing.assert_allclose(
          by_name['net.layer_dict.' + name],
          stored[f'it0_after_{tensor}'],
          atol=1e-5,
        )
      norms = [np.linalg.norm(x) for k, x in by_name.items() if '.r_' not in k]
      np.testing.assert_allclose(norms, stored['it0_param_l2'], rtol=1e-3)
  probe = np.moveaxis(stored['probe_x'], 1, -1)
  restored = network.apply(
    {'params': state.params['network'], **state.model_state['network']}, probe
  )
  # The first updates of Adam are signs, which tiny gradients flip.
  expected = np.moveaxis(stored['probe_y_after_it2'], 1, -1)
  np.testing.assert_allclose(restored, expected, atol=5e-3)


@pytest.mark.slow
def test_stored_clamp(golden, published):
  stored, variables = golden('trnr/clamp_rain100l.npz'), published('rain100l')
  scale = float(stored['inner_lr_scale'])
  variables['inner_learning_rates'] = jax.tree.map(
    lambda rate: np.float32(scale * rate), variables['inner_learning_rates']
  )
  # The clamped gradient shows as the update of plain gradient descent.
  tx = optax.chain(optax.clip(10.0), optax.sgd(1.0))
  step = jax.jit(
    train.make_task_step(
      models.create('msresnet'), tx, ssim_weight=float(stored['ssim_weight'])
    )
  )
  state = state_of(variables, tx)
  tasks = {
    part: {
      'input': np.moveaxis(stored[f'{part}_x'], 2, -1),
      'target': np.moveaxis(stored[f'{part}_y'], 2, -1),
    }
    for part in ('support', 'query')
  }
  new, metrics = step(state, tasks)
  np.testing.assert_allclose(metrics['loss'], stored['loss'], rtol=1e-5)
  clamped = jax.tree.map(
    lambda a, b: a - b, state.params['network'], new.params['network']
  )
  by_name = convert.to_torch(
    {'params': clamped, **state.model_state['network']}
  )
  for tensor in ('tail', 'head'):
    ours = by_name[f'net.layer_dict.{tensor}.weight']
    theirs = stored[f'clamped_grad_{tensor}_weight']
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error < 1e-2
    assert np.abs(ours).max() < 10.001


NETWORK = models.create(
  'msresnet', features=4, stages=1, multi_scale=False, block='concatenating'
)
TX = optax.sgd(0.1)  # Adam would blow rounding noise up.


def small_state(options=()):
  variables = NETWORK.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
  variables['inner_learning_rates'] = jax.tree.map(
    lambda _: jnp.float32(1e-3), variables['params']
  )
  state = state_of(variables, TX)
  if 'learned' in options:
    rates = {'inner_learning_rates': state.model_state['inner_learning_rates']}
    state = state.replace(
      params=state.params | rates,
      model_state={'network': state.model_state['network']},
    )
  if 'attenuator' in options:
    count = len(jax.tree.leaves(variables['params']))
    attenuator = attenuation.Attenuator()
    params = attenuator.init(jax.random.key(1), jnp.zeros(count))['params']
    state = state.replace(
      params=state.params | {'attenuator': params},
      model_state=state.model_state
      | {'attenuator': {'factors': jnp.ones((5, count))}},
    )
  return state.replace(opt_state=TX.init(state.params))


def small_tasks(count=8, shots=2):
  rng = np.random.default_rng(0)
  return {
    part: {
      name: rng.integers(0, 256, (count, shots, 12, 12, 3), np.uint8)
      for name in ('input', 'target')
    }
    for part in ('support', 'query')
  }


def test_query_losses_of_all_steps_count_for_some_epochs():
  for epoch, expected in (
    (0, [1 / 3, 1 / 3, 1 / 3]),
    (5, [1 / 6, 1 / 6, 2 / 3]),
    (9, [1 / 30, 1 / 30, 14 / 15]),
    (10, [0, 0, 1]),
  ):
    np.testing.assert_allclose(
      train.query_weights(epoch, inner_steps=3, num_epochs=10),
      expected,
      atol=1e-6,
    )


def assert_one_device_equals_many(make, state, batch):
  expected, metrics = jax.jit(make())(state(), batch)
  mesh = distributed.make_mesh()
  for parallelism in distributed.PARALLELISMS:
    mapped = steps.map_step(
      make(axis_name=distributed.AXIS_NAME), mesh, parallelism=parallelism
    )
    found, found_metrics = mapped(
      distributed.replicate(state(), mesh),
      distributed.shard_batch(batch, mesh, parallelism),
    )
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      (found.params, found.model_state, found_metrics),
      (expected.params, expected.model_state, metrics),
    )


def test_tasks_on_one_device_equal_many():
  assert_one_device_equals_many(
    functools.partial(train.make_task_step, NETWORK, TX),
    small_state,
    small_tasks(),
  )


def test_batches_on_one_device_equal_many():
  # A network without batch statistics, which are each device's own.
  network = models.create('adn', features=4, stages=1)
  params = network.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))['params']
  assert_one_device_equals_many(
    functools.partial(train.make_batch_step, network, TX),
    lambda: TrainState.create(
      params={'network': params},
      model_state={'network': {}},
      tx=TX,
      rng=jax.random.key(0),
    ),
    jax.tree.map(lambda x: x[:, 0], small_tasks()['support']),
  )


@pytest.mark.parametrize(
  ('state_options', 'step_options'),
  [
    (('learned',), {'multi_step_epochs': 10}),
    (
      ('attenuator',),
      {'inner_schedule': optax.constant_schedule(1e-3)},
    ),
  ],
)
def test_options_train(state_options, step_options):
  step = jax.jit(train.make_task_step(NETWORK, TX, **step_options))
  state = small_state(state_options)
  tasks = small_tasks(2)
  losses = []
  for _ in range(4):
    state, metrics = step(state, tasks)
    losses.append(float(metrics['loss']))
  assert losses[-1] < losses[0]
  before = small_state(state_options)
  for part in state.params:
    changes = jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()),
      state.params[part],
      before.params[part],
    )
    assert max(jax.tree.leaves(changes)) > 0, part
  if 'attenuator' in state_options:
    factors = state.model_state['attenuator']['factors']
    assert (factors[:4] < 1).all() and (factors[4] == 1).all()
