"""Networks give the same in the forms for CPUs and for accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic import models as derainers
from rsdjax import models as classifiers
from trnr import models as restorers


def _classifier(name, size, **options):
  network = classifiers.create(name, num_classes=3, **options)
  image = jax.random.uniform(jax.random.key(0), (2, size, size, 3))
  variables = network.init(jax.random.key(1), image)
  return lambda variables: network.apply(variables, image), variables


def _derainer(name, size, **options):
  network = derainers.create(name, modulated=True, **options)
  image = jax.random.uniform(jax.random.key(0), (2, size, size, 3))
  z = jax.random.normal(jax.random.key(1), (2, network.embedding_features))
  variables = network.init(jax.random.key(2), image, z)
  return lambda variables: network.apply(variables, image, z), variables


def _restorer():
  network = restorers.create('msresnet', features=8, stages=1)
  image = jax.random.uniform(jax.random.key(0), (2, 12, 12, 3))
  variables = network.init(jax.random.key(1), image)
  return lambda variables: network.apply(variables, image), variables


CASES = {
  'convnext': lambda: _classifier(
    'convnext_tiny', 32, depths=(1, 1), width=8, image_size=32
  ),
  'mobilenet': lambda: _classifier(
    'mobilenetv2_100', 32, groups=((1, 8, 1, 1), (6, 8, 2, 2))
  ),
  'mixer': lambda: _classifier(
    'mixer_tiny_patch4_32', 32, depth=1, width=24, image_size=32
  ),
  'resnet': lambda: _classifier('resnet18', 32, depths=(1, 1), width=8),
  'swin': lambda: _classifier(
    'swin_tiny_patch4_window7_224',
    32,
    depths=(1, 1),
    num_heads=(1, 2),
    width=8,
    window_size=4,
    image_size=32,
  ),
  'vit': lambda: _classifier(
    'vit_tiny_patch4_32', 32, depth=2, width=24, image_size=32
  ),
  'brn': lambda: _derainer(
    'brn', 12, iterations=2, features=4, rain_blocks=1, background_blocks=1
  ),
  'drsformer': lambda: _derainer(
    'drsformer', 16, features=8, blocks=(1, 1), heads=(1, 2)
  ),
  'msresnet': _restorer,
}


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_forms_agree(name, monkeypatch):
  apply, variables = CASES[name]()

  def found():
    def loss(params):
      restored = apply(variables | {'params': params})
      return jnp.sin(3 * restored).sum(), restored

    run = jax.jit(jax.grad(loss, has_aux=True))
    return jax.device_get(run(variables['params']))

  for_cpus = found()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  for_accelerators = found()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=2e-4, atol=2e-4 * max(1, np.abs(b).max())
    ),
    for_cpus,
    for_accelerators,
  )
