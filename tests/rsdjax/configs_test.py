"""Every config, and every published pair, resolves to what it names."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from common import configuration, distributed
from common.data import datasets
from rsdjax import distillers, experiment, models, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'rsd').glob('*.py'))


def _pairs(path, name='PAIRS'):
  return getattr(configuration.module(str(path)), name, ())


CASES = [f'{p}:{v}' for p in CONFIGS for v in ('', 'smoke', *_pairs(p))]
CASES += [f'{p}:{v}' for p in CONFIGS for v in _pairs(p, 'STRONGER_PAIRS')]
CASES += [f'{p}:{_pairs(p)[0]},smoke' for p in CONFIGS if _pairs(p)]


@functools.cache
def _abstract_variables(network, image_size):
  images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
  return jax.eval_shape(network.init, jax.random.key(0), images)


@pytest.mark.parametrize('case', CASES, ids=lambda c: pathlib.Path(c).name)
def test_config_resolves(case):
  config = configuration.load(case)
  assert config.is_locked
  assert config.data.name in datasets.MOMENTS
  assert config.data.augmentation in datasets.AUGMENTATIONS
  assert config.train.parallelism in distributed.PARALLELISMS
  assert config.loss.name in train.LOSSES
  assert config.train.augmentation_repeats >= 1
  distillers.create(**config.distiller.to_dict())
  distributed.require_statistics(config.train.batch_norm)
  size = config.data.image_size
  for block, optimizer in (
    (config.model, config.optimizer),
    (config.teacher.model, config.teacher.optimizer),
  ):
    network = models.create(**block, num_classes=10, image_size=size)
    params = _abstract_variables(network, size)['params']
    tx = experiment.make_optimizer(optimizer, num_steps=config.train.num_steps)
    jax.eval_shape(tx.init, params)


def test_all_published_pairs_are_there():
  counts = {p.stem: len(set(_pairs(p))) for p in CONFIGS}
  assert (counts['cifar100'], counts['imagenet']) == (12, 15)


def test_stronger_recipe_is_the_published_one():
  config = configuration.load(
    f'{ROOT}/configs/rsd/imagenet.py:swin_base_patch4_window7_224->resnet50'
  )
  epoch = config.optimizer.schedule.hold_steps
  assert (config.train.batch_size, epoch) == (2048, 625)
  assert config.train.num_steps == 300 * epoch
  assert config.train.augmentation_repeats == 3
  assert (config.data.eval_crop, config.data.eval_interpolation) == (
    0.95,
    'bicubic',
  )
  schedule = experiment.make_schedule(config.optimizer, config.train.num_steps)
  # Five epochs of warm-up, then the cosine that has run from the beginning.
  epochs = np.array([0, 1, 5, 150, 299])
  wave = 0.5 * (1 + np.cos(np.pi * epochs / 300))
  expected = 1e-6 + (5e-3 - 1e-6) * np.where(epochs < 5, epochs / 5, wave)
  np.testing.assert_allclose(
    jax.vmap(schedule)(epochs * epoch), expected, rtol=1e-5
  )


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_unknown_argument_is_named(path):
  with pytest.raises(ValueError, match="argument 'small' must be"):
    configuration.load(f'{path}:small')


@pytest.mark.parametrize(
  ('pair', 'rates'),
  [
    ('swin_tiny_patch4_window7_224->resnet18', 'lr_cifar_cnn'),
    ('convnext_tiny->deit_tiny_patch16_224', 'lr_cifar_vit_mlp'),
    ('swin_tiny_patch4_window7_224->resnet18', 'lr_imagenet_cnn'),
    ('convnext_tiny->deit_tiny_patch16_224', 'lr_imagenet_vit_mlp'),
  ],
)
def test_recipes_have_the_published_rates(pair, rates, golden):
  expected = golden('rsd/recipe.npz')[rates]
  name = 'cifar100' if 'cifar' in rates else 'imagenet'
  config = configuration.load(f'{ROOT}/configs/rsd/{name}.py:{pair}')
  epoch = config.optimizer.schedule.hold_steps
  assert config.train.num_steps == len(expected) * epoch
  schedule = experiment.make_schedule(config.optimizer, config.train.num_steps)
  epochs = np.arange(len(expected))
  actual = jax.vmap(schedule)(epochs * epoch + epoch // 2)
  np.testing.assert_allclose(actual, expected, rtol=1e-6)
