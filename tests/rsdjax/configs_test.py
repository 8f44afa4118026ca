"""Every config resolves to networks, a distiller and an optimiser."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from common import configuration, distributed
from common.data import datasets
from rsdjax import distillers, models, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'rsd').glob('*.py'))


@pytest.mark.parametrize('variant', ['', ':smoke'])
@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_resolves(path, variant):
  config = configuration.load(f'{path}{variant}')
  assert config.is_locked
  assert config.data.name in datasets.MOMENTS
  distillers.create(**config.distiller.to_dict())
  distillers.require_statistics(config.train.batch_norm)
  assert config.train.parallelism in distributed.PARALLELISMS
  size = config.data.image_size
  for block, optimizer in (
    (config.model, config.optimizer),
    (config.teacher.model, config.teacher.optimizer),
  ):
    network = models.create(**block, num_classes=10, image_size=size)
    variables = jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros((1, size, size, 3))
    )
    tx = train.make_optimizer(optimizer, num_steps=config.train.num_steps)
    jax.eval_shape(tx.init, variables['params'])


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_unknown_argument_is_named(path):
  with pytest.raises(ValueError, match="'small' must be empty or 'smoke'"):
    configuration.load(f'{path}:small')
