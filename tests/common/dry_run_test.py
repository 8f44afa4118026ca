"""The report on a run of one small matrix, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from common import distributed, dry_run, steps, training_loop
from common.train_state import TrainState

TX = optax.sgd(1.0)
ROWS, SIDE, TURNS = 16, 4, 3


def _find(state, batch, factor):
  """Three times a product with a kernel, in a loop."""
  x = batch['input'].reshape(len(batch['input']), -1).astype(jnp.float32)
  kernel = state.params['network']['block2']['dense']['kernel']
  total, _ = jax.lax.scan(
    lambda total, _: (total + (x @ (kernel + total)).mean(), None),
    distributed.varying_like(jnp.zeros(()), x),
    length=TURNS,
  )
  loss = factor * distributed.pmean(total, distributed.AXIS_NAME)
  gradients = jax.tree.map(jnp.zeros_like, state.params)
  return steps.Found(gradients, {}, {'loss': loss})


def _update(state, found):
  return state.apply_gradients(found.gradients, {}, TX), found.terms


def _batch(position, first_step):
  ramp = np.arange(ROWS * SIDE * SIDE * 3) % 256
  images = ramp.reshape(ROWS, SIDE, SIDE, 3).astype(np.uint8)
  batch = {'input': images, 'label': np.arange(ROWS, dtype=np.int32)}
  # The last stage of the run has targets.
  assert position == 0
  return batch | ({'target': 255 - images} if first_step == 8 else {})


def _report(workdir, parallelism, make_batch=_batch, **options):
  mesh = distributed.make_mesh()
  state = TrainState.create(
    params={
      'network': {
        'block10': {'dense': {'bias': jnp.zeros(2)}},
        'block2': {'dense': {'kernel': jnp.ones((SIDE * SIDE * 3, 6))}},
      },
      'distiller': {},
    },
    model_state={},
    tx=TX,
    rng=jax.random.key(0),
  )

  def batches(position, first_step):
    while True:
      yield distributed.shard_batch(
        make_batch(position, first_step), mesh, parallelism
      )

  loop = training_loop.Loop(
    step_fn=steps.map_step(
      steps.Step(_find, _update), mesh, parallelism=parallelism
    ),
    make_batches=batches,
    evaluate=lambda state: {},
    best_metric='score',
    batch_size=ROWS,
    num_steps=9,
    log_every_steps=1,
    eval_every_steps=1,
    save_every_steps=1,
    constants=(distributed.replicate(jnp.ones(()), mesh),),
  )
  return dry_run.report(
    loop, distributed.replicate(state, mesh), workdir, **options
  )


@pytest.mark.parametrize('parallelism', distributed.PARALLELISMS)
def test_report_by_hand(tmp_path, parallelism):
  lines = _report(tmp_path, parallelism).splitlines()
  assert lines[:5] == [
    'distiller: 0 parameters',
    'network: 290 parameters',
    '  block2/dense   288   99.3%',
    '  block10/dense    2    0.7%',
    'step 9 of 9, on each of 8 devices (cpu)',
  ]
  # Two rows of a device, times 48 x 6 products, in three turns.
  products = 2 * TURNS * 2 * SIDE * SIDE * 3 * 6 / 1000
  assert lines[6].split()[:2] == [f'{products:.4g}', 'KFLOP']
  words = [line.split()[0] for line in lines[5:]]
  assert words[2:6] == ['arguments', 'intermediate', 'outputs', 'shared']
  shape = [8, 2] if parallelism == 'pmap' else [16]
  assert lines[-4:-1] == [
    f'  input   uint8  {[*shape, 4, 4, 3]}',
    f'  label   int32  {shape}',
    f'  target  uint8  {[*shape, 4, 4, 3]}',
  ]
  assert lines[-1] == f'{tmp_path}/dry_run/batch.png: input, target'
  files = [x for x in tmp_path.rglob('*') if x.is_file()]
  assert files == [tmp_path / dry_run.PICTURE]
  sheet = np.asarray(Image.open(files[0]))
  # Four examples in a row, each of 4 pixels enlarged to 64, and its target.
  assert sheet.shape == (4 * 66 + 2, 8 * 66 + 2, 3)
  images = _batch(0, 8)['input']
  np.testing.assert_array_equal(
    sheet[2 + 66, 2 + 132 : 134 + 64 : 16], images[5, 0]
  )
  np.testing.assert_array_equal(
    sheet[2 + 66, 2 + 198 : 200 + 64 : 16], 255 - images[5, 0]
  )


def test_standardised_floats_are_put_back(tmp_path):
  mean, std = np.float32([0.5, 0.25, 0.5]), np.float32([0.5, 0.25, 0.1])

  def batch(position, first_step):
    images = _batch(position, first_step)['input'] / np.float32(255)
    return {'input': (images - mean) / std}

  text = _report(tmp_path, 'shard_map', batch, moments=(mean, std))
  assert text.splitlines()[-2] == '  input  float32  [16, 4, 4, 3]'
  sheet = np.asarray(Image.open(tmp_path / dry_run.PICTURE))
  assert sheet.shape == (2 * 66 + 2, 8 * 66 + 2, 3)
  images = _batch(0, 8)['input']
  np.testing.assert_array_equal(sheet[2, 2:66:16], images[0, 0])


@pytest.mark.parametrize(
  ('number', 'base', 'expected'),
  [
    (0, 1024, '0 B'),
    (1536, 1024, '1.5 KiB'),
    (3 * 2**30, 1024, '3 GiB'),
    (2.5e12, 1000, '2.5 TB'),
    (None, 1000, 'not known'),
  ],
)
def test_readable_numbers(number, base, expected):
  assert dry_run._readable(number, base, 'B') == expected
