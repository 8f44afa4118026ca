"""Schedules and optimisers against the published recipes' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common import optimizers, train_state

STEPS_PER_EPOCH = 7

# Sections 6.1 of the recipes: CIFAR-100 and ImageNet, CNN and ViT/MLP students.
RECIPES = {
  'lr_cifar_cnn': dict(
    kind='cosine',
    learning_rate=0.05,
    final_learning_rate=1e-3,
    warmup_epochs=3,
    warmup_learning_rate=1e-4,
  ),
  'lr_cifar_vit_mlp': dict(
    kind='cosine',
    learning_rate=5e-4,
    final_learning_rate=1e-5,
    warmup_epochs=20,
    warmup_learning_rate=5e-7,
  ),
  'lr_imagenet_cnn': dict(
    kind='step',
    learning_rate=0.1,
    decay_epochs=30,
    warmup_epochs=3,
    warmup_learning_rate=1e-4,
  ),
  'lr_imagenet_vit_mlp': dict(
    kind='cosine',
    learning_rate=5e-4,
    final_learning_rate=1e-6,
    warmup_epochs=20,
    warmup_learning_rate=5e-7,
  ),
}


@pytest.mark.parametrize('name', RECIPES)
def test_schedule_equals_the_published_rates(name, golden):
  rates = golden('rsd/recipe.npz')[name]
  options = {
    key.replace('epochs', 'steps'): value * STEPS_PER_EPOCH
    if key.endswith('epochs')
    else value
    for key, value in RECIPES[name].items()
  }
  schedule = optimizers.learning_rate_schedule(
    **options,
    num_steps=len(rates) * STEPS_PER_EPOCH,
    hold_steps=STEPS_PER_EPOCH,
  )
  steps = jnp.arange(len(rates) * STEPS_PER_EPOCH)
  actual = jax.jit(jax.vmap(schedule))(steps)
  np.testing.assert_allclose(
    actual, np.repeat(rates, STEPS_PER_EPOCH), rtol=1e-6
  )


def test_schedule_by_hand():
  smooth = optimizers.learning_rate_schedule(
    'cosine',
    learning_rate=1.0,
    final_learning_rate=0.5,
    num_steps=8,
    warmup_steps=2,
    warmup_learning_rate=0.2,
  )
  # Warm-up 0.2, 0.6; then 0.5 + 0.25 (1 + cos(pi step / 8)).
  expected = {0: 0.2, 1: 0.6, 4: 0.75, 8: 0.5, 9: 0.5}
  for step, rate in expected.items():
    np.testing.assert_allclose(smooth(step), rate, rtol=1e-6)
  constant = optimizers.learning_rate_schedule(
    'constant', learning_rate=0.3, num_steps=5
  )
  np.testing.assert_allclose(constant(4), 0.3, rtol=1e-6)


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_optimizer_trace_equals_the_published_one(name, golden):
  numbers = golden('rsd/recipe.npz')
  rate, decay, clip, ema = map(float, numbers[f'opt_{name}_lr_wd_clip_ema'])
  tx = optimizers.make_optimizer(
    name,
    learning_rate=rate,
    weight_decay=decay,
    clip_norm=clip if clip > 0 else None,
  )
  names = ('weight', 'bias', 'pos_embed')
  params = {n: jnp.asarray(numbers[f'opt_{name}_{n}_0']) for n in names}
  state, average = tx.init(params), params
  for step in range(1, 5):
    gradients = {
      n: jnp.asarray(numbers[f'opt_{name}_grad_{n}_{step}']) for n in names
    }
    updates, state = tx.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    average = train_state.moving_average(average, params, decay=ema)
    for n in names:
      np.testing.assert_allclose(
        params[n], numbers[f'opt_{name}_{n}_{step}'], rtol=1e-5, atol=1e-6
      )
      np.testing.assert_allclose(
        average[n], numbers[f'opt_{name}_ema_{n}_{step}'], rtol=1e-5, atol=1e-6
      )


def test_sgd_by_hand():
  tx = optimizers.make_optimizer('sgd', learning_rate=0.5, weight_decay=0.1)
  params = {'kernel': jnp.full((1, 1), 2.0), 'bias': jnp.full((1,), 2.0)}
  gradients = {'kernel': jnp.ones((1, 1)), 'bias': jnp.ones((1,))}
  state = tx.init(params)
  updates, _ = tx.update(gradients, state, params)
  # Decay first: g = 1 + 0.1 * 2; Nesterov: g + 0.9 g; times -0.5.
  np.testing.assert_allclose(updates['kernel'], [[-1.14]], rtol=1e-6)
  np.testing.assert_allclose(updates['bias'], [-0.95], rtol=1e-6)


def test_adam_adds_the_decay_of_all_parameters_to_the_gradient():
  tx = optimizers.make_optimizer('adam', learning_rate=0.5, weight_decay=0.1)
  params = {'kernel': jnp.full((1, 1), 2.0), 'bias': jnp.full((1,), 2.0)}
  state, expected, first, second = tx.init(params), 2.0, 0.0, 0.0
  for step, gradient in enumerate((1.0, -0.5, 3.0), 1):
    gradients = jax.tree.map(lambda x, g=gradient: jnp.full_like(x, g), params)
    updates, state = tx.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    gradient += 0.1 * expected
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
    expected -= 0.5 * first / (1 - 0.9**step) / scale
  for x in jax.tree.leaves(params):
    np.testing.assert_allclose(x, expected, rtol=1e-5)


def test_lamb_trusts_decayed_parameters_alone():
  tx = optimizers.make_optimizer(
    'lamb', learning_rate=1.0, weight_decay=0.0, epsilon=1e-6
  )
  params = {'kernel': jnp.full((1, 4), 3.0), 'bias': jnp.full((4,), 3.0)}
  gradients = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(gradients, tx.init(params), params)
  # Adam's first update is 1 everywhere; the ratio |w| / |update| is 3.
  np.testing.assert_allclose(updates['kernel'], -3.0 * np.ones((1, 4)), 1e-5)
  np.testing.assert_allclose(updates['bias'], -np.ones(4), 1e-5)


@pytest.mark.parametrize(
  'options',
  [
    {'name': 'adam', 'weight_decay': 0.1, 'clip_value': 0.5},
    {'name': 'adamw', 'weight_decay': 0.1, 'clip_norm': 1.0},
    {'name': 'sgd', 'weight_decay': 0.1, 'decay_all': True},
    {'name': 'adamw', 'weight_decay': 0.1, 'first_update': 2},
    {'name': 'lamb', 'weight_decay': 0.1},
  ],
  ids=lambda options: '-'.join(map(str, options.values())),
)
def test_small_parameters_are_updated_as_if_by_themselves(options, monkeypatch):
  shapes = {'kernel': (3, 4), 'bias': (4,), 'large': (5, 20), 'scale': (7,)}

  def draw(seed):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    pairs = zip(keys, shapes.items(), strict=True)
    return {name: jax.random.normal(key, shape) for key, (name, shape) in pairs}

  def run(entries):
    monkeypatch.setattr(optimizers, '_SMALL', entries)
    tx = optimizers.make_optimizer(
      **options,
      learning_rate=optimizers.learning_rate_schedule(
        'cosine', learning_rate=0.3, num_steps=5
      ),
    )
    params = draw(0)
    state = tx.init(params)
    shape = jax.tree.structure(state)
    for seed in range(1, 5):
      updates, state = tx.update(draw(seed), state, params)
      params = optax.apply_updates(params, updates)
      assert jax.tree.structure(state) == shape
    return params, state

  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    run(50),
    run(0),
  )


def test_updates_can_begin_late():
  options = {'learning_rate': 0.3, 'weight_decay': 0.1}
  ours = optimizers.make_optimizer('adamw', **options, first_update=2)
  expected = optax.conditionally_mask(
    optimizers.make_optimizer('adamw', **options), lambda step: step >= 2
  )
  params = {'kernel': jnp.full((2, 2), 2.0), 'bias': jnp.full((3,), 2.0)}
  states = [tx.init(params) for tx in (ours, expected)]
  for step in range(4):
    gradients = jax.tree.map(lambda x, s=step: x * (s - 1.5), params)
    found = [
      tx.update(gradients, state, params)
      for tx, state in zip((ours, expected), states, strict=True)
    ]
    states = [state for _, state in found]
    for x, y in zip(*map(jax.tree.leaves, found), strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-6)
    still = all(not x.any() for x in jax.tree.leaves(found[0][0]))
    assert still == (step < 2)


def test_weight_decay_mask_goes_by_name():
  params = {
    'kernel': jnp.zeros((2, 2)),
    'bias': jnp.zeros((2, 2)),
    'scale': jnp.zeros(2),
    'alpha': jnp.zeros((1, 1, 2)),
    'cls_token': jnp.zeros((1, 1, 2)),
  }
  mask = optimizers.weight_decay_mask(params)
  assert mask == {
    'kernel': True,
    'bias': False,
    'scale': False,
    'alpha': True,
    'cls_token': True,
  }


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (
      lambda: optimizers.make_optimizer('adagrad', learning_rate=1.0),
      "optimizer 'adagrad' must be one of adam, sgd, adamw, lamb",
    ),
    (
      lambda: optimizers.learning_rate_schedule(
        'linear', learning_rate=1.0, num_steps=2
      ),
      "schedule 'linear' must be one of",
    ),
    (
      lambda: optimizers.learning_rate_schedule(
        'step', learning_rate=1.0, num_steps=2
      ),
      'decay_steps 0',
    ),
    (
      lambda: optimizers.learning_rate_schedule(
        'cosine', learning_rate=1.0, num_steps=0
      ),
      'num_steps 0 must be positive',
    ),
  ],
)
def test_wrong_values_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_global_norm_and_its_limit():
  tree = {'a': jnp.array([[3.0, 0.0]]), 'b': jnp.array(-4.0)}
  np.testing.assert_allclose(optimizers.global_norm(tree), 5.0, rtol=1e-6)
  for limit, factor in ((1.0, 1 / (5 + 1e-6)), (5.1, 1.0)):
    clip = optimizers.clip_by_global_norm(limit)
    clipped, _ = clip.update(tree, clip.init(tree))
    np.testing.assert_allclose(clipped['a'], [[3 * factor, 0]], rtol=1e-6)
    np.testing.assert_allclose(clipped['b'], -4 * factor, rtol=1e-6)


def test_global_norm_is_the_same_in_both_forms(monkeypatch):
  tree = [jax.random.normal(jax.random.key(0), (3, 4)), jnp.ones(7)]
  found = optimizers.global_norm(tree)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  np.testing.assert_allclose(found, optimizers.global_norm(tree), rtol=1e-6)
