"""The training step on tiny networks, on one device and on many."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common import distributed, steps
from common.layers import BatchNorm
from rsdjax import distillers, evaluate, experiment, train

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NORMALISATION = {'mean': MEAN, 'std': STD}
CLASSES = 4


class Network(nn.Module):
  """A few numbers of each picture, through BatchNorm or LayerNorm."""

  width: int
  batch_norm: bool
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, *, train=False, features=False):
    x = nn.Dense(self.width)(images.reshape(len(images), -1))
    if self.batch_norm:
      x = BatchNorm(axis_name=self.axis_name)(x, train=train)
    else:
      x = nn.LayerNorm()(x)
    x = jnp.tanh(x)
    logits = nn.Dense(CLASSES)(x)
    return {'logits': logits, 'embedding': x} if features else logits


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (16, 4, 4, 3)).astype(np.uint8),
    'label': rng.integers(0, CLASSES, 16).astype(np.int32),
  }


def _parts(
  method, *, axis_name=None, statistics='global', ema_decay=None, **options
):
  """A step and its first state."""
  student = Network(6, batch_norm=True, axis_name=axis_name)
  teacher = Network(5, batch_norm=False)
  images = jnp.zeros((2, 4, 4, 3))
  teacher_variables = teacher.init(jax.random.key(1), images)
  distiller = distillers.create(
    method,
    axis_name=axis_name,
    rsd={'weight': 0.5, 'statistics': statistics},
  )
  tx = optax.sgd(0.1)
  state = experiment.create_train_state(
    jax.random.key(0),
    student,
    teacher,
    distiller,
    tx,
    image_shape=(4, 4, 3),
    teacher_variables=teacher_variables,
    average=ema_decay is not None,
  )
  step = train.make_train_step(
    student,
    teacher,
    distiller,
    tx,
    **NORMALISATION,
    ema_decay=ema_decay,
    axis_name=axis_name,
    **{'label_smoothing': 0.1} | options,
  )
  return step, state, teacher_variables


@pytest.mark.parametrize(
  ('method', 'devices', 'parallelism'),
  [
    *itertools.product(
      ['none', 'kd', 'rsd', 'rsd+kd'], [8], distributed.PARALLELISMS
    ),
    ('rsd', 2, 'shard_map'),
    ('rsd', 4, 'shard_map'),
  ],
)
def test_many_devices_equal_one(batch, method, devices, parallelism):
  step, state, teacher_variables = _parts(method)
  expected = jax.jit(step)(state, batch, teacher_variables)
  mesh = distributed.make_mesh(jax.devices()[:devices])
  step, state, _ = _parts(method, axis_name=distributed.AXIS_NAME)
  mapped = steps.map_step(step, mesh, parallelism=parallelism)
  actual = mapped(
    distributed.replicate(state, mesh),
    distributed.shard_batch(batch, mesh, parallelism),
    distributed.replicate(teacher_variables, mesh),
  )
  assert expected[1].keys() == actual[1].keys()
  for name, value in expected[1].items():
    np.testing.assert_allclose(actual[1][name], value, rtol=1e-6, err_msg=name)
  for part in ('params', 'model_state', 'opt_state'):
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
      getattr(actual[0], part),
      getattr(expected[0], part),
    )


def test_per_device_statistics_are_another_objective(batch):
  mesh = distributed.make_mesh(jax.devices()[:2])
  sharded = distributed.shard_batch(batch, mesh)
  values = []
  for statistics in distributed.STATISTICS:
    step, state, teacher_variables = _parts(
      'rsd', axis_name=distributed.AXIS_NAME, statistics=statistics
    )
    _, metrics = steps.map_step(step, mesh)(state, sharded, teacher_variables)
    values.append(float(metrics['rsd']))
  assert abs(values[0] - values[1]) > 0.001 * values[1]


def test_groups_on_one_device_equal_devices(batch):
  mesh = distributed.make_mesh(jax.devices()[:2])
  _, state, teacher_variables = _parts('rsd+kd')
  # The student's BatchNorm too is that of each device.
  local = Network(6, batch_norm=True)
  teacher = Network(5, batch_norm=False)
  distiller = distillers.create('rsd+kd', rsd={'weight': 0.5})
  tx = optax.sgd(0.1)
  make = functools.partial(
    train.make_train_step, local, teacher, distiller, tx, **NORMALISATION
  )
  expected = steps.map_step(make(axis_name=distributed.AXIS_NAME), mesh)(
    state, distributed.shard_batch(batch, mesh), teacher_variables
  )
  actual = jax.jit(make(groups=2))(state, batch, teacher_variables)
  for part in ('params', 'model_state'):
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
      getattr(actual[0], part),
      getattr(expected[0], part),
    )
  np.testing.assert_allclose(actual[1]['rsd'], expected[1]['rsd'], rtol=1e-6)


def test_rsd_brings_the_correlation_towards_the_identity(batch):
  """On one batch the loss falls, and so does its RSD term."""
  step, state, teacher_variables = _parts('rsd')
  step = jax.jit(step)
  history = []
  for _ in range(60):
    state, metrics = step(state, batch, teacher_variables)
    history.append(jax.device_get(metrics))
  assert history[-1]['loss'] < 0.5 * history[0]['loss']
  assert history[-1]['rsd'] < 0.5 * history[0]['rsd']
  assert int(state.step) == 60


def test_running_average_follows_weights_and_statistics(batch):
  step, state, teacher_variables = _parts('none', ema_decay=0.75)
  new, _ = jax.jit(step)(state, batch, teacher_variables)
  expected = jax.tree.map(
    lambda old, now: 0.75 * old + 0.25 * now,
    experiment.student_variables(state),
    experiment.student_variables(new),
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), new.ema, expected
  )


def test_teacher_is_a_constant_and_the_decoupler_learns(batch):
  step, state, teacher_variables = _parts('rsd')
  new, _ = jax.jit(step)(state, batch, teacher_variables)
  moved = jax.tree.map(
    lambda a, b: bool(jnp.any(a != b)), state.params, new.params
  )
  assert all(jax.tree.leaves(moved['distiller']))
  assert 'distiller' not in experiment.student_variables(new)['params']


def test_sigmoid_loss_by_hand(batch):
  step, state, teacher_variables = _parts(
    'none', loss='binary_cross_entropy', label_smoothing=0.0
  )
  _, metrics = jax.jit(step)(state, batch, teacher_variables)
  images = (batch['image'] / 255 - np.array(MEAN)) / np.array(STD)
  logits, _ = Network(6, batch_norm=True).apply(
    experiment.student_variables(state),
    images.astype(np.float32),
    train=True,
    mutable=['batch_stats'],
  )
  yes = np.eye(CLASSES)[batch['label']] > 0
  chance = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
  expected = -np.log(np.where(yes, chance, 1 - chance)).mean()
  np.testing.assert_allclose(
    metrics['binary_cross_entropy'], expected, rtol=1e-5
  )
  assert metrics['loss'] == metrics['binary_cross_entropy']
  with pytest.raises(ValueError, match="loss 'hinge' must be one of"):
    _parts('none', loss='hinge')


def test_scores_count_real_examples(batch):
  """The mask hides a wrong label; scores by hand from constant logits."""

  class Constant(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
      del train
      return jnp.tile(jnp.log(jnp.array([[0.7, 0.1, 0.1, 0.1]])), (4, 1))

  padded = {
    'image': batch['image'][:4],
    'label': np.array([0, 0, 1, 3], np.int32),
    'mask': np.array([1, 1, 1, 0], np.float32),
  }
  sums = evaluate.make_eval_step({'a': Constant()}, **NORMALISATION)(
    {'a': {}}, padded
  )
  assert {k: (float(v), float(n)) for k, (v, n) in sums.items()} == {
    'a_top1': (2.0, 3.0),
    'a_top5': (3.0, 3.0),
    'a_cross_entropy': (
      pytest.approx(-2 * np.log(0.7) - np.log(0.1), rel=1e-6),
      3.0,
    ),
  }


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('srd', {}, "distiller 'srd' must be none, one of bkd, cc"),
    ('none', {'rsd': {'statistics': 'local'}}, "statistics 'local' must be"),
    ('rsd', {'rsd': {'kapa': 1}}, "has no option 'kapa'; .* weight, kappa"),
    ('kd+kd', {}, 'names a method twice'),
  ],
)
def test_wrong_distillers_are_named(name, options, message):
  with pytest.raises(ValueError, match=message):
    distillers.create(name, **options)
