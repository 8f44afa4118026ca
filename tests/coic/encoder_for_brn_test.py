"""The encoder learns, and the network that it is made for stays as it is."""

import jax
import numpy as np
import pytest

from coic import experiment, train
from common import configuration

CONFIG = 'configs/coic/encoder_for_brn.py'


@pytest.mark.slow  # Compiles for half a minute.
def test_two_steps_move_the_encoder_alone():
  config = configuration.load(f'{CONFIG}:smoke')
  parts = experiment.build(config)
  first = state = parts.initial_state()
  step = jax.jit(
    train.make_train_step(
      parts.network,
      parts.encoder,
      parts.tx,
      loss=config.loss.name,
      freeze_network=config.train.freeze_network,
      momentum=config.contrast.momentum,
    )
  )
  pixels = np.random.default_rng(0).random((4, 2, 32, 32, 3), np.float32)
  keys = ('input', 'target', 'whole_input', 'whole_target')
  batch = dict(zip(keys, pixels, strict=True))
  for _ in range(config.train.num_steps):
    state, metrics = step(state, batch)
    assert metrics['contrastive_loss'] > 0  # It is the second stage.
  jax.tree.map(
    np.testing.assert_array_equal,
    state.params['network'],
    first.params['network'],
  )
  for parameters in (
    (state.params['encoder'], first.params['encoder']),
    (
      state.model_state['momentum_encoder']['params'],
      first.model_state['momentum_encoder']['params'],
    ),
  ):
    moved = jax.tree.map(lambda a, b: (a != b).any(), *parameters)
    assert all(jax.tree.leaves(moved))
  assert parts.derainer(state).encoder is not None


def test_arguments():
  assert 'spa' in configuration.load(f'{CONFIG}:spa').data.train_sets
  with pytest.raises(ValueError, match=r"argument \['rain'\] must be some of"):
    configuration.load(f'{CONFIG}:rain')
  with pytest.raises(ValueError, match="'photos' does without"):
    configuration.load(f'{CONFIG}:photos,spa')
  # A frozen network must have learnt something.
  weights = configuration.load(f'{CONFIG}:photos').model.weights
  config = configuration.load(f'{CONFIG}:smoke', {'model.weights': weights})
  parts = experiment.build(config)
  with pytest.raises(FileNotFoundError, match='weights brn_coic'):
    parts.initial_state()
