"""Pictures of the contrast, and a dry run, of a tiny config."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coic import experiment, main, pictures
from common import configuration, distributed
from common.train_state import TrainState


def smoke_config(modulated=True):
  config = configuration.load('configs/coic/photos.py:smoke')
  with config.unlocked():
    config.model.modulated = modulated
    config.model.iterations = 1
    config.encoder.features = 2
  return config


@pytest.fixture(scope='module')
def parts():
  return experiment.build(smoke_config())


def test_contrast_comes_with_the_second_stage(parts):
  state = distributed.replicate(
    TrainState.create(
      params={}, model_state={}, tx=optax.sgd(1.0), rng=jax.random.key(0)
    ),
    distributed.make_mesh(),
  )
  show = pictures.Pictures(parts, rows=3)
  assert show(state) == {}
  sheet = show(state.replace(step=jnp.full((), 2)))['contrast']
  # Three rows of query, positive, one rain-aware and four other negatives.
  assert sheet.shape == (3 * 66 + 2, 7 * 66 + 2, 3)
  batch = next(parts.batches(2))
  for row in range(3):
    strip = sheet[2 + 66 * row : 66 * (row + 1) : 2]
    query, positive, rain, *details = (
      strip[:, 2 + 66 * column : 66 * (column + 1) : 2] for column in range(7)
    )
    np.testing.assert_array_equal(query, batch['whole_input'][row])
    flips = [query[::i, ::j] for i in (1, -1) for j in (1, -1)]
    assert any(np.array_equal(positive, x) for x in flips)
    # Their own clean picture, under the rain of one of the three.
    clean = batch['target'][row].astype(int)
    layers = batch['input'][:3].astype(int) - batch['target'][:3]
    candidates = [(clean + layer).clip(0, 255) for layer in layers]
    assert any(np.abs(rain - x).max() <= 1 for x in candidates)
    assert all(np.ptp(x.astype(int)) > 0 for x in details)


@pytest.mark.slow
def test_dry_run(tmp_path, monkeypatch):
  make_mesh = distributed.make_mesh
  monkeypatch.setattr(
    distributed, 'make_mesh', lambda: make_mesh(jax.devices()[:1])
  )
  config = smoke_config(modulated=False)
  text = main.dry_run(config, tmp_path)
  assert 'encoder: ' in text and 'network: ' in text
  assert '  input   uint8  [4, 32, 32, 3]' in text
  files = [x for x in tmp_path.rglob('*') if x.is_file()]
  assert files == [tmp_path / 'dry_run' / 'batch.png']
