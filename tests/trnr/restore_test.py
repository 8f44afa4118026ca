"""Restored pictures: tiles against the whole, and what a network needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.initialization import initialize
from trnr import evaluate, models, restore


def test_tiles_are_the_whole_where_they_see_as_much():
  network = models.create('msresnet', features=4, stages=1, attention=False)
  shape = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  variables = initialize(network, jax.random.key(0), shape)
  rng = np.random.default_rng(0)
  image = rng.random((70, 131, 3), dtype=np.float32)
  whole = evaluate.restore(network, variables, image[None])[0]
  tiled = restore.make_restore(network, variables, tile=64, overlap=60)(image)
  np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_networks_that_do_not_fit():
  with pytest.raises(ValueError, match='give sigma'):
    restore.make_restore(models.create('msresnet', noise_map=True), {})
  with pytest.raises(ValueError, match='of 1 channel, not of 3'):
    restore.make_restore(models.create('msresnet', channels=1), {})
