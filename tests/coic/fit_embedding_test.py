"""A hidden embedding found again; the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from coic import evaluate, fit_embedding, losses, models
from common import checkpoints

MODEL = {
  'name': 'brn',
  'iterations': 1,
  'features': 4,
  'rain_blocks': 1,
  'background_blocks': 1,
  'embedding_features': 4,
}


@pytest.fixture(scope='module')
def network_and_variables():
  network = models.create(**MODEL)
  image = jnp.zeros((1, 16, 16, 3))
  return network, jax.jit(network.init)(jax.random.key(0), image)


def test_random_embedding():
  z = fit_embedding.random_embedding(jax.random.key(0))
  assert z.shape == (128,)
  np.testing.assert_allclose(np.linalg.norm(z), 1, rtol=1e-6)


def test_fit(network_and_variables):
  network, variables = network_and_variables
  hidden, start = (
    fit_embedding.random_embedding(jax.random.key(seed), features=4)
    for seed in (1, 2)
  )
  image = jax.random.uniform(jax.random.key(3), (2, 16, 16, 3))
  restore = jax.jit(network.apply)
  target = restore(variables, image, jnp.stack([hidden, hidden]))
  z, values = fit_embedding.fit_embedding(
    network,
    variables,
    image,
    target,
    start,
    loss=losses.l1_loss,
    num_steps=40,
    learning_rate=0.1,
  )
  assert z.shape == (4,) and values.shape == (40,)
  np.testing.assert_allclose(np.linalg.norm(z), 1, rtol=1e-6)
  first = restore(variables, image, jnp.stack([start, start]))
  np.testing.assert_allclose(
    values[0], np.abs(first - target).mean(), rtol=1e-4
  )
  assert values[-1] < 0.3 * values[0]


@pytest.mark.parametrize(
  ('target', 'z', 'match'),
  [
    (jnp.zeros((1, 16, 15, 3)), jnp.ones(4), 'must have the same shape'),
    (jnp.zeros((1, 16, 16, 3)), jnp.ones((1, 4)), 'z .* must have 1 axes'),
    (jnp.zeros((1, 16, 16, 3)), jnp.ones(5), r'z \[1, 5\] must be \[b, 4\]'),
  ],
)
def test_errors(network_and_variables, target, z, match):
  with pytest.raises(ValueError, match=match):
    fit_embedding.fit_embedding(
      *network_and_variables, jnp.zeros((1, 16, 16, 3)), target, z
    )


def test_command(network_and_variables, tmp_path, capsys):
  _, variables = network_and_variables
  weights = tmp_path / evaluate.MODEL_FILE
  checkpoints.export_model(weights, variables, {'model': MODEL})
  rng = np.random.default_rng(0)
  for name in ('rainy', 'clean'):
    pixels = rng.integers(256, size=(20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{name}.png')
  pair = {kind: str(tmp_path / f'{kind}.png') for kind in ('rainy', 'clean')}
  arguments = ['--weights', str(weights), '--crop', '16', '--num_steps', '2']
  arguments += ['--input', pair['rainy'], '--target', pair['clean']]
  arguments += ['--second_input', pair['clean']]
  output = tmp_path / 'z.npy'
  with pytest.raises(SystemExit):
    fit_embedding.main(arguments)
  arguments += ['--second_target', pair['clean'], '--output', str(output)]
  arguments += ['--scores', str(tmp_path / 'scores.json')]
  fit_embedding.main(arguments)
  printed = capsys.readouterr().out
  psnr = json.loads((tmp_path / 'scores.json').read_text())
  for name in ('first', 'second'):
    assert [*psnr[name]] == ['input', 'z = 0', 'random z', 'fitted z']
    for kind in ('z = 0', 'random z', 'fitted z'):
      found = f'coic_y {psnr[name][kind]:.2f} dB'
      assert f'{name} image, {kind}: {found}' in printed
  np.testing.assert_allclose(np.linalg.norm(np.load(output)), 1, rtol=1e-6)
