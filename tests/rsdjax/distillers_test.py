"""Every method with a student of every family: a few steps on one batch."""

import functools
import math

import jax
import numpy as np
import optax
import pytest

from common import distributed, steps
from common.initialization import initialize
from rsdjax import distillers, experiment, models, train

CLASSES = 5
BATCH = 8
NORMALISATION = {'mean': (0.5,) * 3, 'std': (0.25,) * 3}

_vit = functools.partial(
  models.create, 'vit_tiny_patch4_32', num_classes=CLASSES, num_heads=2
)
# Image size, student, teacher (whose grid goes into the student's).
FAMILIES = {
  'resnet': lambda: (
    16,
    models.create(
      'resnet20', num_classes=CLASSES, depths=(1, 1, 1, 1), width=4
    ),
    _vit(width=8, depth=4),
  ),
  'mobilenet': lambda: (
    16,
    models.create(
      'mobilenetv2_100',
      num_classes=CLASSES,
      # The published strides, and one block of each width.
      groups=[(1, 8, 1, 1), *[(6, 8, 1, s) for s in (2, 2, 2, 1, 2, 1)]],
    ),
    _vit(width=8, depth=4),
  ),
  'vit': lambda: (
    16,
    _vit(width=8, depth=4),
    models.create(
      'resnet20', num_classes=CLASSES, depths=(1, 1, 1, 1), width=4
    ),
  ),
  # OFA needs the published grids of 56, 28, 14 and 7.
  'swin': lambda: (
    56,
    models.create(
      'swin_pico_patch4_window7_224',
      num_classes=CLASSES,
      image_size=56,
      patch_size=1,
      width=4,
      depths=(1, 1, 1, 1),
      num_heads=(1, 1, 1, 1),
    ),
    _vit(width=8, depth=4, patch_size=8),
  ),
  'mixer': lambda: (
    16,
    models.create(
      'mixer_tiny_patch4_32', num_classes=CLASSES, width=8, depth=4
    ),
    _vit(width=12, depth=4),
  ),
  'resmlp': lambda: (
    16,
    models.create(
      'resmlp_tiny_patch4_32', num_classes=CLASSES, width=8, depth=4
    ),
    _vit(width=12, depth=4),
  ),
}


@functools.cache
def _networks(family):
  """Student, and teacher with its variables."""
  size, student, teacher = FAMILIES[family]()
  images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
  variables = initialize(teacher, jax.random.key(1), images)
  return size, student, teacher, variables


@functools.cache
def _batch(size):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (BATCH, size, size, 3)).astype(np.uint8),
    'label': (np.arange(BATCH) % CLASSES).astype(np.int32),
    'index': np.arange(BATCH, dtype=np.int32)[::-1].copy(),
  }


def _parts(family, method, *, axis_name=None, statistics='per_device'):
  """A step, its first state and the teacher's variables."""
  size, student, teacher, teacher_variables = _networks(family)
  if axis_name and statistics == 'global':
    student = student.clone(axis_name=axis_name)
  with_statistics = {
    m: {'statistics': statistics}
    for m in distillers.names()
    if 'statistics' in distillers.options(m)
  }
  distiller = distillers.create(
    method,
    axis_name=axis_name,
    student_prefix_tokens=student.prefix_tokens,
    teacher_prefix_tokens=teacher.prefix_tokens,
    train_labels=lambda: np.arange(40) % CLASSES,
    **with_statistics | {'crd': {'num_negatives': 16, 'features': 8}},
  )
  tx = optax.adam(3e-4)
  state = experiment.create_train_state(
    jax.random.key(0),
    student,
    teacher,
    distiller,
    tx,
    image_shape=(size, size, 3),
    teacher_variables=teacher_variables,
  )
  step = train.make_train_step(
    student, teacher, distiller, tx, **NORMALISATION, axis_name=axis_name
  )
  return step, state, teacher_variables


@functools.cache
def _train(family, method, steps):
  """Metrics of some steps on one batch."""
  step, state, teacher_variables = _parts(family, method)
  step = jax.jit(step)
  batch = _batch(_networks(family)[0])
  history = []
  for _ in range(steps):
    state, metrics = step(state, batch, teacher_variables)
    history.append(jax.device_get(metrics))
  assert all(math.isfinite(v) for m in history for v in m.values())
  assert history[-1]['loss'] < history[0]['loss']
  return history


@pytest.mark.parametrize(
  'family',
  [
    family
    if family == 'mixer'
    else pytest.param(family, marks=pytest.mark.slow)
    for family in FAMILIES
  ],
)
def test_all_methods_together_train_every_family(family):
  """One program of all eleven terms; each must be there and move."""
  history = _train(family, '+'.join(distillers.names()), 8)
  for method in distillers.names():
    assert history[0][method] != 0
    assert history[0][method] != history[-1][method]


@pytest.mark.parametrize('method', distillers.names())
def test_each_method_trains_alone(method):
  _train('mixer', method, 8)  # The family that compiles fastest.


def test_bfloat16_student_keeps_float32_losses(monkeypatch):
  """All methods: close to float32 at the first step, and it trains."""
  every = '+'.join(distillers.names())
  expected = _train('mixer', every, 8)[0]
  size, student, *teacher = _networks('mixer')
  parts = (size, student.clone(dtype='bfloat16'), *teacher)
  monkeypatch.setitem(globals(), '_networks', lambda _: parts)
  history = _train.__wrapped__('mixer', every, 8)
  for name in (*distillers.names(), 'cross_entropy'):
    assert history[0][name].dtype == np.float32
    np.testing.assert_allclose(
      history[0][name], expected[name], rtol=0.05, err_msg=name
    )
    assert history[0][name] != history[-1][name]


@pytest.mark.slow
@pytest.mark.parametrize('method', distillers.names())
@pytest.mark.parametrize('family', FAMILIES)
def test_each_method_trains_every_family(family, method):
  _train(family, method, 8)


@pytest.mark.parametrize(
  'parallelism', ['shard_map', pytest.param('pmap', marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  'method', [pytest.param('ofa', marks=pytest.mark.slow), 'crd', 'dist']
)
def test_two_devices_equal_one(method, parallelism):
  """RSD, KD and BatchNorm are in train_test."""
  # DIST amplifies the rounding of logits that hardly differ, as the first of
  # transformers and mixers.
  family = 'resnet' if method == 'dist' else 'mixer'
  batch = _batch(16)
  step, state, teacher_variables = _parts(family, method)
  expected = jax.jit(step)(state, batch, teacher_variables)
  mesh = distributed.make_mesh(jax.devices()[:2])
  step, state, _ = _parts(
    family, method, axis_name=distributed.AXIS_NAME, statistics='global'
  )
  actual = steps.map_step(step, mesh, parallelism=parallelism)(
    distributed.replicate(state, mesh),
    distributed.shard_batch(batch, mesh, parallelism),
    teacher_variables,
  )
  for name, value in expected[1].items():
    np.testing.assert_allclose(actual[1][name], value, rtol=1e-5, err_msg=name)
