"""Restored pictures: tiles against the whole, and what a network needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.initialization import initialize
from trnr import evaluate, models, restore


@pytest.fixture(scope='module')
def network():
  return models.create('msresnet', features=4, stages=1, attention=False)


@pytest.fixture(scope='module')
def variables(network):
  shape = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  return initialize(network, jax.random.key(0), shape)


def test_tiles_are_the_whole_where_they_see_as_much(network, variables):
  rng = np.random.default_rng(0)
  image = rng.random((70, 131, 3), dtype=np.float32)
  whole = evaluate.restore(network, variables, image[None])[0]
  tiled = restore.make_restore(network, variables, tile=64, overlap=60)(image)
  np.testing.assert_allclose(tiled, whole, atol=1e-5)


@pytest.mark.parametrize('shape', [(20, 64), (64, 64), (1, 300)])
def test_pictures_smaller_than_the_overlap(network, variables, shape):
  pixels = np.full((*shape, 3), 0.5, np.float32)
  assert restore.make_restore(network, variables)(pixels).shape == pixels.shape


def test_networks_that_do_not_fit():
  with pytest.raises(ValueError, match='give sigma'):
    restore.make_restore(models.create('msresnet', noise_map=True), {})
  with pytest.raises(ValueError, match='of 1 channel, not of 3'):
    restore.make_restore(models.create('msresnet', channels=1), {})
