"""Inner and outer loop: stored numbers, finite differences, many devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from common import distributed, layers
from trnr import adaptation, convert, experiment, losses, models, train
from trnr.models import blocks

VARIANTS = {
  'first_order': {},
  'multi_step_epoch30': {'step_weights': np.array([0.5, 0.5], 'f4')},
  'second_order': {'first_order': False},
}


def nhwc(x):
  x = np.moveaxis(x, -3, -1)
  return jnp.asarray(x if x.dtype == np.uint8 else x.astype('f4'))


def tasks_of(stored, prefix=''):
  return {
    part: {
      'input': nhwc(stored[f'{prefix}{part}_x']),
      'target': nhwc(stored[f'{prefix}{part}_y']),
    }
    for part in ('support', 'query')
  }


@pytest.mark.parametrize(
  ('name', 'variant'),
  [
    ('rain100l', 'first_order'),
    pytest.param('rain100l', 'multi_step_epoch30', marks=pytest.mark.slow),
    pytest.param('rain100l', 'second_order', marks=pytest.mark.slow),
    pytest.param('rain100h', 'first_order', marks=pytest.mark.slow),
    pytest.param('rain100h', 'multi_step_epoch30', marks=pytest.mark.slow),
    pytest.param('rain100h', 'second_order', marks=pytest.mark.slow),
  ],
)
def test_stored_outer_pass(name, variant, golden, published):
  stored, variables = golden(f'trnr/meta_{name}.npz'), published(name)
  loss_fn = train.make_loss_fn(models.create('msresnet'))

  @jax.jit
  def run(params):
    return jax.value_and_grad(adaptation.meta_loss, argnums=1, has_aux=True)(
      loss_fn,
      params,
      variables['batch_stats'],
      tasks_of(stored),
      inner_learning_rate=variables['inner_learning_rates'],
      **VARIANTS[variant],
    )

  (loss, outputs), gradients = run(variables['params'])
  np.testing.assert_allclose(loss, stored[f'{variant}_meta_loss'], atol=1e-4)
  for ours, theirs in (
    (outputs.support_loss, 'support_loss'),
    (outputs.query_loss, 'query_loss'),
  ):
    expected = stored[f'{variant}_{theirs}'].mean(0)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
  # In the published order, through the names of the published tensors.
  by_name = convert.to_torch(
    {'params': gradients, 'batch_stats': outputs.batch_stats}
  )
  norms = [np.linalg.norm(x) for k, x in by_name.items() if '.r_' not in k]
  expected = stored[f'{variant}_grad_l2']
  relative = np.abs(norms - expected) / np.maximum(expected, 1e-6)
  assert relative.max() < 3e-2
  assert np.median(relative) < 2e-3
  for tensor in ('head_weight', 'bn_tail_bias', 'tail_weight'):
    ours = by_name[
      'net.layer_dict.' + tensor.replace('_w', '.w').replace('tail_b', 'tail.b')
    ]
    theirs = stored[f'{variant}_grad_{tensor}']
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error < 3e-2, tensor
  for kind in ('r_mean', 'r_var'):
    ours = by_name[f'net.layer_dict.bn_tail.{kind}']
    np.testing.assert_allclose(
      ours, stored[f'after_bn_tail_{kind}'], rtol=1e-5, atol=1e-6
    )
    sums = [x.sum() for k, x in by_name.items() if k.endswith(kind)]
    np.testing.assert_allclose(
      sums, stored[f'after_bn_{kind}_sum'], rtol=1e-4, atol=1e-4
    )


def test_stored_adapted_weights(golden, published):
  stored, variables = golden('trnr/meta_rain100l.npz'), published('rain100l')
  loss_fn = train.make_loss_fn(models.create('msresnet'))
  support = jax.tree.map(lambda x: x[0], tasks_of(stored)['support'])
  adapted = jax.jit(
    lambda params: adaptation.adapt(
      loss_fn,
      params,
      variables['batch_stats'],
      support,
      inner_learning_rate=variables['inner_learning_rates'],
    )
  )(variables['params'])
  np.testing.assert_allclose(
    adapted.losses, stored['first_order_support_loss'][0], atol=1e-4
  )
  by_name = convert.to_torch(
    {'params': adapted.params, 'batch_stats': adapted.batch_stats}
  )
  for tensor, name in (
    ('head_weight', 'head.weight'),
    ('body1_msb_bn_weight', 'body1.msb.layer_dict.bn.weight'),
    ('bn_tail_bias', 'bn_tail.bias'),
    ('tail_weight', 'tail.weight'),
  ):
    np.testing.assert_allclose(
      by_name['net.layer_dict.' + name],
      stored[f'task0_after_step2_{tensor}'],
      atol=1e-6,
    )


def test_stored_schedules(golden, published):
  stored = golden('trnr/schedules.npz')
  for steps in (2, 5):
    weights = [
      adaptation.multi_step_weights(
        epoch,
        inner_steps=steps,
        num_epochs=int(stored['multi_step_loss_num_epochs']),
      )
      for epoch in stored['msl_epochs']
    ]
    np.testing.assert_allclose(
      weights, stored[f'msl_weights_{steps}steps'], atol=1e-6
    )
  variables = published('rain100l')
  rates = adaptation.graded_learning_rates(
    models.create('msresnet').depths(variables['params']), first=1e-3, last=1e-4
  )
  ours = convert.to_torch({**variables, 'inner_learning_rates': rates})
  np.testing.assert_allclose(ours['update_lr'], stored['inner_lr'], rtol=1e-6)
  schedule = experiment.published_schedule(
    learning_rate=float(stored['meta_lr']),
    final_learning_rate=float(stored['min_learning_rate']),
    steps_per_epoch=10,
    num_epochs=int(stored['total_epochs']),
  )
  # The first step of an epoch has the rate of the epoch before.
  np.testing.assert_allclose(
    schedule(10 * stored['epochs'] + 1), stored['outer_lr'], rtol=1e-5
  )
  np.testing.assert_allclose(schedule(10), stored['outer_lr'][0], rtol=1e-6)


# A network of one number, where everything can be followed by hand.


def line(params, batch_stats, batch):
  """Squared error of a line through the origin; counts passes and sums x."""
  x, y = batch['input'], batch['target']
  seen = 0.9 * batch_stats['seen'] + 0.1 * x.mean()
  return jnp.square(params['slope'] * x - y).mean(), {'seen': seen}


def line_tasks(count=4):
  rng = np.random.default_rng(0)
  return {
    part: {
      'input': jnp.asarray(rng.normal(size=(count, 3)), 'f4'),
      'target': jnp.asarray(rng.normal(size=(count, 3)), 'f4'),
    }
    for part in ('support', 'query')
  }


LINE = {'slope': jnp.float32(0.7)}
SEEN = {'seen': jnp.float32(0.3)}


def test_first_order_by_hand():
  tasks = line_tasks(1)
  (loss, outputs), gradient = jax.value_and_grad(
    adaptation.meta_loss, argnums=1, has_aux=True
  )(line, LINE, SEEN, tasks, inner_learning_rate=0.1, inner_steps=1)
  x, y = (np.asarray(tasks['support'][k][0]) for k in ('input', 'target'))
  slope = 0.7 - 0.1 * np.mean(2 * x * (0.7 * x - y))
  u, v = (np.asarray(tasks['query'][k][0]) for k in ('input', 'target'))
  np.testing.assert_allclose(loss, np.mean((slope * u - v) ** 2), rtol=1e-6)
  expected = np.mean(2 * u * (slope * u - v))
  np.testing.assert_allclose(gradient['slope'], expected, rtol=1e-6)
  seen = 0.9 * (0.9 * 0.3 + 0.1 * x.mean()) + 0.1 * u.mean()
  np.testing.assert_allclose(outputs.batch_stats['seen'], seen, rtol=1e-6)
  # The second order has the derivative of the inner step as a factor.
  second = jax.grad(
    lambda p: adaptation.meta_loss(
      line,
      p,
      SEEN,
      tasks,
      inner_learning_rate=0.1,
      inner_steps=1,
      first_order=False,
    )[0]
  )(LINE)
  factor = 1 - 0.1 * np.mean(2 * x * x)
  np.testing.assert_allclose(second['slope'], factor * expected, rtol=1e-6)


@pytest.mark.parametrize('over_tasks', ['scan', 'vmap'])
def test_running_statistics_come_task_by_task(over_tasks):
  tasks = line_tasks(3)
  _, outputs = adaptation.meta_loss(
    line, LINE, SEEN, tasks, inner_learning_rate=0.1, over_tasks=over_tasks
  )
  seen = 0.3
  for task in range(3):
    for part in ('support', 'query', 'support', 'query'):
      seen = 0.9 * seen + 0.1 * float(tasks[part]['input'][task].mean())
  np.testing.assert_allclose(outputs.batch_stats['seen'], seen, rtol=1e-5)


class TwoLayers(nn.Module):
  """Little, but with all that a derivative may trip over."""

  @nn.compact
  def __call__(self, image):
    x = layers.Conv(4, kernel_dilation=2, padding=2)(image)
    x = layers.BatchNorm()(x, train=True)
    x = blocks.ChannelAttention()(blocks.PReLU()(x))
    return image - layers.Conv(3)(x)


def small_problem():
  network = TwoLayers()

  def loss_fn(params, batch_stats, batch):
    restored, state = network.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['input'],
      mutable=['batch_stats'],
    )
    per_example = losses.restoration_loss(restored, batch['target'])
    return per_example.mean(), state['batch_stats']

  rng = np.random.default_rng(1)
  variables = network.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
  tasks = {
    part: {name: rng.random((2, 2, 12, 12, 3)) for name in ('input', 'target')}
    for part in ('support', 'query')
  }
  return loss_fn, jax.tree.map(lambda x: x.astype('f8'), variables), tasks


@pytest.mark.parametrize(
  'options', [{}, pytest.param({'remat': True}, marks=pytest.mark.slow)]
)
def test_second_order_is_the_derivative(options):
  with jax.enable_x64(True):
    loss_fn, variables, tasks = small_problem()

    @jax.jit
    def loss(params):
      return adaptation.meta_loss(
        loss_fn,
        params,
        variables['batch_stats'],
        tasks,
        inner_learning_rate=0.01,
        first_order=False,
        **options,
      )[0]

    params = variables['params']
    gradient = jax.jit(jax.grad(loss))(params)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(size=x.shape)), params
    )

    def moved(step):
      return loss(jax.tree.map(lambda p, d: p + step * d, params, direction))

    step = 1e-6
    numerical = (moved(step) - moved(-step)) / (2 * step)
    products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
    np.testing.assert_allclose(
      sum(jax.tree.leaves(products)), numerical, rtol=1e-5
    )


def test_vmap_and_devices_equal_scan_on_one():
  tasks = line_tasks(8)
  factor = {'slope': jnp.float32(0.05)}  # A tree of learning rates.

  def run(params, tasks, **options):
    def loss(params):
      value, outputs = adaptation.meta_loss(
        line,
        params,
        SEEN,
        tasks,
        inner_learning_rate=factor,
        first_order=False,
        **options,
      )
      return distributed.pmean(value, options.get('axis_name')), outputs

    (value, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    gradient = distributed.pmean(gradient, options.get('axis_name'))
    return value, outputs, gradient

  expected = run(LINE, tasks)

  def same(found):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      found,
      expected,
    )

  same(run(LINE, tasks, over_tasks='vmap'))
  mesh = distributed.make_mesh()
  everywhere, split = PartitionSpec(), PartitionSpec('batch')
  on_devices = jax.shard_map(
    lambda p, t: run(p, t, axis_name='batch'),
    mesh=mesh,
    in_specs=(everywhere, split),
    out_specs=everywhere,
  )
  same(on_devices(LINE, tasks))
  spread = jax.tree.map(lambda x: x[:, None], tasks)
  same(
    jax.pmap(
      lambda p, t: run(p, t, axis_name='batch'),
      axis_name='batch',
      in_axes=(None, 0),
      out_axes=None,
    )(LINE, spread)
  )


def test_learned_rates_get_a_gradient():
  tasks = line_tasks(2)

  def loss(rate):
    return adaptation.meta_loss(
      line, LINE, SEEN, tasks, inner_learning_rate=rate, inner_steps=1
    )[0]

  step = 1e-3
  numerical = (loss(0.1 + step) - loss(0.1 - step)) / (2 * step)
  np.testing.assert_allclose(jax.grad(loss)(0.1), numerical, rtol=1e-2)


def test_attenuation_scales_before_the_inner_steps():
  tasks = line_tasks(1)
  loss, outputs = adaptation.meta_loss(
    line,
    LINE,
    SEEN,
    tasks,
    inner_learning_rate=0.0,
    attenuator=lambda gradients: 0.5 + 0 * gradients,
  )
  halved, _ = line(
    {'slope': 0.35}, SEEN, jax.tree.map(lambda x: x[0], tasks['query'])
  )
  np.testing.assert_allclose(loss, halved, rtol=1e-6)
  np.testing.assert_allclose(outputs.factors, [0.5])


def test_errors():
  with pytest.raises(ValueError, match='inner_steps = 0'):
    adaptation.meta_loss(
      line, LINE, SEEN, line_tasks(), inner_learning_rate=0.1, inner_steps=0
    )
  tasks = {**line_tasks(3), 'query': line_tasks(2)['query']}
  with pytest.raises(ValueError, match='different tasks'):
    adaptation.meta_loss(line, LINE, SEEN, tasks, inner_learning_rate=0.1)


def test_tasks_in_turn_take_the_memory_of_one():
  def loss_fn(params, batch_stats, batch):
    x = batch['input']
    for _ in range(8):
      x = jnp.tanh(x @ params)
    return jnp.square(x - batch['target']).mean(), batch_stats

  def temporary(count):
    sets = {
      key: jax.ShapeDtypeStruct((count, 256, 32), jnp.float32)
      for key in ('input', 'target')
    }

    def loss(params, tasks):
      return adaptation.meta_loss(
        loss_fn, params, {}, tasks, inner_learning_rate=0.1
      )[0]

    params = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    tasks = {'support': sets, 'query': sets}
    compiled = jax.jit(jax.grad(loss)).lower(params, tasks).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(16) < 1.2 * temporary(2)
