"""What a config builds, and what it says of wrong values."""

import pathlib

import jax
import numpy as np
import pytest

from common import configuration
from trnr import experiment, models
from trnr.patch_set import PatchSet

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def patch_file(tmp_path_factory):
  """Sixty patches in six clusters."""
  path = tmp_path_factory.mktemp('patches') / 'patches.npz'
  clean = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3), np.uint8)
  PatchSet(clean, clean[:, None], np.repeat(np.arange(6), 10)).write(path)
  return path


@pytest.fixture
def build(patch_file, tmp_path):
  def build(schedule=None, **overrides):
    config = configuration.load(
      f'{ROOT}/configs/trnr/photos.py:smoke',
      {
        'patches.path': str(patch_file),
        **{k.replace('__', '.'): v for k, v in overrides.items()},
      },
    )
    if schedule:
      with config.unlocked():
        config.optimizer.schedule = schedule
    return experiment.build(config, tmp_path)

  return build


PUBLISHED = {
  'kind': 'published',
  'final_learning_rate': 1e-4,
  'num_epochs': 10,
  'patches_per_step': 2,
}


def test_epochs_are_counted_in_patches(build):
  assert build().steps_per_epoch == 60 // (2 * 2)
  parts = build(PUBLISHED)
  assert parts.steps_per_epoch == 60 // 2
  rates = [float(parts.schedule(step)) for step in (0, 30, 31, 300, 301, 331)]
  # The first step of an epoch has the rate of the one before.
  assert rates[0] == rates[1] == pytest.approx(1e-3)
  assert rates[2] == pytest.approx(
    1e-4 + 9e-4 * (1 + np.cos(np.pi / 10)) / 2, rel=1e-6
  )
  assert rates[4] == pytest.approx(1e-4)
  assert rates[3] > rates[4] < rates[5]


def test_parts(build):
  parts = build()
  assert parts.batch_size == 2
  assert build(sampling__name='rbs1').batch_size == 8
  assert parts.test_pairs.names
  assert parts.description == parts.config.model.to_dict()


def test_network_of_ones_own(build, tmp_path):
  config = build().config
  network = models.create('msresnet', features=4, stages=1)
  parts = experiment.build(config, tmp_path, network=network)
  assert parts.network is network
  assert parts.initial_state().params['network'].keys() >= {'head', 'stage1'}
  assert parts.description == config.model.to_dict()


@pytest.mark.parametrize(
  ('options', 'learned', 'kept'),
  [
    ({}, {'network'}, {'network', 'inner_learning_rates'}),
    (
      {'adaptation__learn_rates': True},
      {'network', 'inner_learning_rates'},
      {'network'},
    ),
    ({'adaptation__learning_rates': 'outer'}, {'network'}, {'network'}),
    (
      {'adaptation__attenuation_window': 5},
      {'network', 'attenuator'},
      {'network', 'inner_learning_rates', 'attenuator'},
    ),
    ({'sampling__name': 'rps'}, {'network'}, {'network'}),
  ],
)
def test_state_has_what_is_trained(build, options, learned, kept):
  state = jax.eval_shape(build(**options).initial_state)
  assert set(state.params) == learned
  assert set(state.model_state) == kept


@pytest.mark.parametrize('rates', ['graded', 'constant'])
def test_inner_rates(build, rates):
  state = build(adaptation__learning_rates=rates).initial_state()
  found = state.model_state['inner_learning_rates']
  assert found['head']['kernel'] == pytest.approx(1e-3)
  last = 1e-4 if rates == 'graded' else 1e-3
  assert found['tail']['kernel'] == pytest.approx(last)


def test_the_same_seed_gives_the_same_network_to_every_sampling(build):
  one, other = (
    build(sampling__name=name).initial_state().params['network']
    for name in ('rcs', 'rbs1')
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_attenuated_variables_are_means_over_the_window(build):
  state = build(adaptation__attenuation_window=2).initial_state()
  factors = np.ones_like(state.model_state['attenuator']['factors'])
  factors[:, 0] = 0.7, 0.9
  state.model_state['attenuator']['factors'] = factors
  variables = experiment.network_variables(state)
  before = jax.tree.leaves(state.params['network'])
  after = jax.tree.leaves(variables['params'])
  np.testing.assert_allclose(after[0], 0.8 * before[0], rtol=1e-6)
  np.testing.assert_array_equal(after[1], before[1])
  assert 'batch_stats' in variables


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'sampling__name': 'ris'}, "config.sampling.name 'ris' must be one of"),
    (
      {'adaptation__learning_rates': 'steep'},
      "config.adaptation.learning_rates 'steep' must be one of",
    ),
    ({'model__name': 'msresnets'}, "did you mean 'msresnet'"),
    ({'optimizer__name': 'rmsprop'}, "optimizer 'rmsprop'"),
    (
      {'schedule': PUBLISHED, 'sampling__name': 'rbs2'},
      "epochs of patches, which 'rbs2' does not have",
    ),
  ],
)
def test_wrong_values_are_named(build, overrides, message):
  with pytest.raises(ValueError, match=message):
    build(**overrides)
