"""Updates against stored steps, masks of the stages, guards, many devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coic import convert, experiment, models, negatives, train
from coic.encoder import Encoder
from coic.views import Views
from common import configuration, distributed, steps, train_state
from common.initialization import initialize
from common.train_state import TrainState

SMALL = {
  'iterations': 1,
  'features': 4,
  'rain_blocks': 1,
  'background_blocks': 1,
  'embedding_features': 8,
}


def make_config(plain_steps=1, **optimizer):
  config = configuration.load('configs/coic/photos.py:smoke')
  with config.unlocked():
    config.train.plain_steps = plain_steps
    config.optimizer.schedule = {'kind': 'constant'}
    config.optimizer.update(optimizer)
  return config


def state_of(network, encoder, tx):
  params = {'network': network['params'], 'encoder': encoder['params']}
  _, network_state = train_state.collections_of(network)
  batch_stats = {'batch_stats': encoder['batch_stats']}
  momentum = {'params': encoder['params'], **batch_stats}
  return TrainState.create(
    params=params,
    model_state={
      'network': network_state,
      'encoder': batch_stats,
      'momentum_encoder': momentum,
    },
    tx=tx,
    rng=jax.random.key(0),
  )


def test_stored_steps(golden, rule_filled):
  arrays = golden('coic/train_steps.npz')
  options = {'embedding_features': 16}
  network = models.create('brn', iterations=2, **options)
  encoder = Encoder(features=6, **options)
  tx = experiment.make_optimizer(make_config(learning_rate=1e-3))
  network_variables = convert.from_torch(
    'brn', rule_filled(arrays, prefix='net_'), iterations=2, **options
  )
  encoder_variables = convert.from_torch(
    'encoder', rule_filled(arrays, prefix='enc_'), features=6, **options
  )
  state = state_of(network_variables, encoder_variables, tx)
  update = jax.jit(
    train.make_update(
      network,
      encoder,
      tx,
      contrastive_weight=float(arrays['cfg_weight']),
      momentum=float(arrays['cfg_momentum']),
    )
  )
  for i in range(3):
    image, target, query, key, negative = (
      jnp.asarray(
        np.moveaxis(arrays[f'step{i}/{name}'] / np.float32(255), c, -1)
      )
      for name, c in (
        *(('input', 1), ('target', 1), ('im_q', 1), ('im_k', 1)),
        ('im_negs', 2),
      )
    )
    views = None if i == 0 else Views(query, key, negative)
    state, metrics = update(state, image, target, views)
    np.testing.assert_allclose(
      metrics['restoration_loss'], arrays['base_loss'][i], atol=2e-5
    )
    if views is not None:
      np.testing.assert_allclose(
        0.2 * metrics['contrastive_loss'],
        arrays['weighted_contrastive_loss'][i],
        atol=2e-5,
      )
  final = {
    'net': convert.to_torch('brn', {'params': state.params['network']}),
    'enc_q': convert.to_torch(
      'encoder',
      {'params': state.params['encoder'], **state.model_state['encoder']},
    ),
    'enc_k': convert.to_torch('encoder', state.model_state['momentum_encoder']),
  }
  for part, tensors in final.items():
    for name, total in zip(
      arrays[f'final_{part}_names'], arrays[f'final_{part}_abssum'], strict=True
    ):
      if name.endswith('block.3.bias'):
        continue  # Rounding noise of a gradient that is zero.
      np.testing.assert_allclose(
        np.abs(tensors[str(name)]).sum(), total, rtol=2e-3, err_msg=str(name)
      )
  for tensor, key in (
    (final['net']['conv0.conv.base_conv.conv.weight'], 'conv0_weight'),
    (final['net']['conv0.conv.g2pa_wgen.4.weight'], 'conv0_gen'),
    (final['enc_q']['conv1.weight'], 'enc_q_conv1'),
    (final['enc_k']['conv1.weight'], 'enc_k_conv1'),
  ):
    np.testing.assert_allclose(tensor, arrays[f'final_{key}'], atol=2e-4)


@functools.cache
def small_parts(batch_norm_axis=None):
  network = models.create('brn', **SMALL)
  encoder = Encoder(features=4, embedding_features=8, axis_name=batch_norm_axis)
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  variables = [
    initialize(module, jax.random.key(i), image)
    for i, module in enumerate((network, encoder))
  ]
  return network, encoder, *variables


@functools.cache
def small_step(axis_name=None, batch_norm_axis=None, bank=0, **options):
  """Parts of a small run: first state, and a step that is not compiled."""
  network, encoder, *variables = small_parts(batch_norm_axis)
  tx = experiment.make_optimizer(
    make_config(
      plain_steps=1, name='adamw', weight_decay=0.1, late_weight_decay=0.1
    )
  )
  state = state_of(*variables, tx)
  step = train.make_train_step(
    network, encoder, tx, num_negatives=2, axis_name=axis_name, **options
  )
  if bank:
    empty = negatives.RainBank.empty(bank, (16, 16, 3))
    banks = jax.tree.map(lambda x: x[None], empty)
    state = state.replace(
      model_state={**state.model_state, 'rain': {'banks': banks}}
    )
  return state, step


def small_batch(whole=True, size=2):
  rng = np.random.default_rng(0)
  keys = ['input', 'target']
  keys += ['whole_input', 'whole_target'] if whole else []
  return {
    key: rng.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8) for key in keys
  }


compiled = functools.cache(lambda **options: jax.jit(small_step(**options)[1]))


@pytest.mark.slow
def test_first_stage_leaves_generators_and_encoder_alone():
  state, _ = small_step()
  new, metrics = compiled()(state, small_batch(whole=False))
  assert 'contrastive_loss' not in metrics
  jax.tree.map(
    np.testing.assert_array_equal,
    (new.params['encoder'], new.model_state['momentum_encoder']),
    (state.params['encoder'], state.model_state['momentum_encoder']),
  )
  for (path, before), after in zip(
    jax.tree_util.tree_leaves_with_path(state.params['network']),
    jax.tree.leaves(new.params['network']),
    strict=True,
  ):
    name = jax.tree_util.keystr(path)
    if 'generator' in name:
      np.testing.assert_array_equal(before, after, err_msg=name)
    elif 'kernel' in name:
      assert not np.array_equal(before, after), name
  counts = [
    int(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(new.opt_state)
    if 'late' in jax.tree_util.keystr(path)
    and jax.tree_util.keystr(path).endswith('.count')
  ]
  assert counts == [0], 'the moments of the late group have moved'


def test_second_stage_trains_everything():
  state, _ = small_step()
  state, _ = compiled()(state, small_batch(whole=False))
  new, metrics = compiled()(state, small_batch())
  total = metrics['restoration_loss'] + 0.2 * metrics['contrastive_loss']
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-6)
  # The momentum encoder only moves once the other one has.
  statistics = [
    x.model_state[part]['batch_stats']
    for x in (state, new)
    for part in ('encoder', 'momentum_encoder')
  ]
  for before, after in zip(
    jax.tree.leaves((state.params, statistics[:2])),
    jax.tree.leaves((new.params, statistics[2:])),
    strict=True,
  ):
    # Without a former cell, the gate that forgets has no gradient for its bias.
    assert before.ndim == 1 or not np.array_equal(before, after)


def test_bank_fills():
  state, _ = small_step(bank=4)
  state, _ = compiled(bank=4)(state, small_batch())
  bank = jax.tree.map(lambda x: x[0], state.model_state['rain']['banks'])
  assert int(bank.count) == 2
  batch = small_batch()
  rain = batch['input'] / np.float32(255) - batch['target'] / np.float32(255)
  np.testing.assert_allclose(bank.layers[2:], rain, atol=1e-6)


def test_a_step_without_finite_gradients_changes_nothing():
  state, step = small_step()
  step = jax.jit(steps.skip_non_finite(step))
  batch = {k: x / np.float32(255) for k, x in small_batch(whole=False).items()}
  batch['input'][0, 0, 0, 0] = np.nan
  new, metrics = step(state, batch)
  assert metrics['skipped'] == 1 and int(new.step) == 1
  jax.tree.map(
    np.testing.assert_array_equal,
    (new.params, new.opt_state, new.model_state),
    (state.params, state.opt_state, state.model_state),
  )


@pytest.mark.slow
def test_an_exploded_step_has_next_to_no_gradient():
  network, encoder, *variables = small_parts()
  tx = optax.sgd(1.0)
  state = state_of(*variables, tx)
  update = jax.jit(
    train.make_update(network, encoder, tx, explosion_limit=1e-6)
  )
  image = jnp.full((2, 16, 16, 3), 0.5)
  new, metrics = update(state, image, image)
  assert metrics['exploded'] == 1 and metrics['gradient_norm'] > 1e-4
  moved = jax.tree.map(jnp.subtract, new.params, state.params)
  assert optax.tree.norm(moved) < 1e-7


def test_frozen_network_stays_and_the_encoder_learns():
  network, encoder, *variables = small_parts()
  config = make_config(plain_steps=0, weight_decay=0.1)
  with config.unlocked():
    config.train.freeze_network = True
  tx = experiment.make_optimizer(config)
  state = state_of(*variables, tx)
  step = jax.jit(
    train.make_train_step(
      network, encoder, tx, num_negatives=2, freeze_network=True
    )
  )
  new, _ = step(state, small_batch())
  jax.tree.map(
    np.testing.assert_array_equal,
    new.params['network'],
    state.params['network'],
  )
  for before, after in zip(
    jax.tree.leaves(state.params['encoder']),
    jax.tree.leaves(new.params['encoder']),
    strict=True,
  ):
    assert not np.array_equal(before, after)


def test_unknown_loss():
  network, encoder, *_ = small_parts()
  with pytest.raises(ValueError, match=r"'l2' must be one of \['ssim', 'l1'"):
    train.make_update(network, encoder, optax.sgd(1.0), loss='l2')


@pytest.mark.parametrize(
  'parallelism', ['shard_map', pytest.param('pmap', marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  'whole', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_same_step_on_many_devices(whole, parallelism):
  mesh = distributed.make_mesh(jax.devices()[:2])
  options = {'rain_search': 'global', 'bank': 8}
  axis = distributed.AXIS_NAME
  state, step = small_step(axis_name=axis, batch_norm_axis=axis, **options)
  mapped = steps.map_step(step, mesh, parallelism=parallelism)
  batch = small_batch(whole=whole, size=4)
  expected, expected_metrics = compiled(**options)(state, batch)
  new, metrics = mapped(
    distributed.replicate(state, mesh),
    distributed.shard_batch(batch, mesh, parallelism),
  )
  for name, value in expected_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5),
    (new.params, new.model_state),
    (expected.params, expected.model_state),
  )
