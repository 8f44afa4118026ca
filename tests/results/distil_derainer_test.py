"""A derainer taught by another one, on tiny pictures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from coic import models
from coic.evaluate import load_derainer
from common import configuration, distributed
from common.checkpoints import export_model
from results import distil_derainer
from rsdjax.distillers import Distiller
from trnr import evaluate, input_pipeline, train

CONFIG = 'configs/trnr/rain_small.py:smoke'


@pytest.fixture(scope='module', autouse=True)
def one_device():
  make_mesh = distributed.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      distributed, 'make_mesh', lambda: make_mesh(jax.devices()[:1])
    )
    yield


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """Folder of a small BRN."""
  folder = tmp_path_factory.mktemp('teacher')
  options = {
    'modulated': False,
    'iterations': 2,
    'features': 5,
    'rain_blocks': 1,
    'background_blocks': 1,
  }
  network = models.create('brn', **options)
  image = jnp.zeros((1, 16, 16, 3))
  variables = jax.jit(network.init)(jax.random.key(7), image)
  export_model(
    folder / 'model.safetensors',
    variables,
    {'model': {'name': 'brn', **options}},
  )
  return folder


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  """Of four steps on crops of three pairs."""
  root = tmp_path_factory.mktemp('pairs')
  rng = np.random.default_rng(0)
  for part in ('rain', 'clean'):
    (root / part).mkdir()
    for number in range(3):
      image = rng.integers(0, 256, (24, 26, 3), np.uint8)
      Image.fromarray(image).save(root / part / f'{number}.png')
  data = {
    f'data.{split}_{side}': str(root / part)
    for split in ('train', 'test')
    for side, part in (('input', 'rain'), ('target', 'clean'))
  }
  loaded = configuration.load(
    CONFIG,
    {
      **data,
      'data.num_images': 3,
      'patches.size': 16,
      'sampling.name': 'rbs1',
      'sampling.batch_size': 4,
      'model.features': 4,
      'train.log_every_steps': 1,
      'train.pictures': False,
    },
  )
  with loaded.unlocked():  # Less to compile.
    loaded.model.update({'multi_scale': False, 'attention': False})
  return loaded


@pytest.fixture(scope='module')
def lessons(config, teacher):
  learn, _ = input_pipeline.open_data(**config.data)
  return distil_derainer.taught(learn, load_derainer(teacher))


def test_teacher_gives_its_picture_and_what_makes_it(lessons, teacher):
  derainer = load_derainer(teacher)
  assert len(lessons) == 3 and lessons.features == 5
  example = lessons[1]
  clean, restored, features = np.split(example['target'], (3, 6), axis=-1)
  assert example['input'].dtype == np.uint8
  image = np.asarray(example['input'] / 255, np.float32)[None]
  expected = derainer.network.apply(derainer.network_variables, image)
  np.testing.assert_allclose(restored, expected[0], atol=1e-5)
  # The last layer makes the picture of its input.
  layer = derainer.network_variables['params']['iteration']['background'][
    'output'
  ]
  made = jax.lax.conv_general_dilated(
    features[None],
    layer['kernel'],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  np.testing.assert_allclose(
    np.asarray(made[0]) + layer['bias'], restored, atol=1e-5
  )
  assert clean.min() >= 0 and clean.max() <= 1


def test_without_distillation_it_is_the_ordinary_step(
  config, lessons, tmp_path
):
  parts, _, _ = train.prepare(config, tmp_path)
  batch = next(
    input_pipeline.train_batches(config, parts.network, lessons, None, 0)
  )
  distiller = Distiller(distil_derainer.METHODS['none'])
  state = distil_derainer.first_state(parts, distiller, lessons)
  options = {'ssim_weight': config.loss.ssim_weight}
  step = distil_derainer.make_step(
    parts.network, distiller, parts.tx, **options
  )
  ordinary = train.make_batch_step(parts.network, parts.tx, **options)
  plain = {'input': batch['input'], 'target': batch['target'][..., :3]}
  new, metrics = jax.jit(step)(state, batch)
  expected, of_ordinary = jax.jit(ordinary)(parts.initial_state(), plain)
  for name in ('loss', 'gradient_norm'):
    np.testing.assert_allclose(metrics[name], of_ordinary[name], rtol=1e-5)
  for kind in ('params', 'model_state'):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4),
      getattr(new, kind)['network'],
      getattr(expected, kind)['network'],
    )


def test_methods_share_the_start_and_add_their_term(config, teacher, tmp_path):
  found = distil_derainer.compare(
    config,
    tmp_path,
    teacher=teacher,
    methods=['output', 'rsd'],
    seeds=[0],
  )
  assert {*found} == {'output_seed0', 'rsd_seed0'}
  first = {}
  for method in ('output', 'rsd'):
    folder = tmp_path / f'{method}_seed0'
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    first[method] = line = json.loads(lines[0])
    assert line['loss'] == pytest.approx(
      line['restoration_loss'] + line[method], rel=1e-5
    )
    assert configuration.read(folder)['method'] == method
    network, variables = evaluate.load_network(folder)
    assert network.features == 4
    assert {*variables} == {'params', 'batch_stats'}
  assert first['output']['restoration_loss'] == pytest.approx(
    first['rsd']['restoration_loss'], rel=1e-5
  )


def test_unknown_method_is_named(config, teacher, tmp_path):
  with pytest.raises(ValueError, match="'kd' must be one of"):
    distil_derainer.compare(
      config, tmp_path, teacher=teacher, methods=['kd'], seeds=[0]
    )
