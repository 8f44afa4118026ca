"""What a config builds, without a step of training."""

import itertools

import jax
import numpy as np
import pytest

from coic import experiment
from common import configuration


def smoke_config(**changes):
  config = configuration.load('configs/coic/photos.py:smoke')
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def parts():
  return experiment.build(smoke_config())


def test_whole_images_come_with_the_second_stage(parts):
  batches = [*itertools.islice(parts.batches(0), 3)]
  assert parts.config.train.plain_steps == 1
  assert [sorted(batch) for batch in batches] == [
    ['input', 'target'],
    ['input', 'target', 'whole_input', 'whole_target'],
    ['input', 'target', 'whole_input', 'whole_target'],
  ]
  for batch in batches:
    for images in batch.values():
      assert images.shape == (4, 32, 32, 3) and images.dtype == np.uint8


def test_the_stream_goes_on_where_it_was(parts):
  batches = [*itertools.islice(parts.batches(0), 3)]
  again = next(parts.batches(2))
  jax.tree.map(np.testing.assert_array_equal, batches[2], again)


def test_a_baseline_has_no_second_stage():
  parts = experiment.build(smoke_config(**{'model.modulated': False}))
  batch = next(itertools.islice(parts.batches(0), 3, None))
  assert sorted(batch) == ['input', 'target']


@pytest.mark.parametrize('remat', [False, True])
@pytest.mark.parametrize(
  'network', ['brn', 'rcdnet', 'dgunet', 'idt', 'drsformer']
)
def test_networks_have_a_first_state(network, remat):
  config = configuration.load(f'configs/coic/mixed.py:{network},coic,smoke')
  config.model.remat = remat
  state = jax.eval_shape(experiment.build(config).initial_state)
  assert state.params['network']


def test_weights_choose_the_sets():
  weights = {'light': 1.0, 'heavy': 3.0, 'slanted': 0.0}
  config = configuration.load('configs/coic/photos.py:smoke')
  with config.unlocked():
    config.data.weights = weights
    config.data.num_images = 0
  mixed = experiment.mix(config)
  # Fifteen pairs of heavy, light and slanted rain, by largest remainder.
  assert mixed.counts == (11, 4, 0)


def test_real_pairs_are_half():
  mixed = experiment.mix(smoke_config(**{'data.real_sets': ('light',)}))
  assert [*mixed.mixture.sets] == ['heavy', 'slanted', 'light']
  assert mixed.counts == (1, 1, 2)


@pytest.mark.parametrize('field', ['contrast.rain_search', 'train.batch_norm'])
def test_wrong_statistics(field):
  with pytest.raises(ValueError, match=rf"{field} 'local' must be one of"):
    experiment.build(smoke_config(**{field: 'local'}))


def test_batch_norm_over_all_devices():
  changes = {'train.batch_norm': 'global'}
  parts = experiment.build(smoke_config(**changes))
  assert parts.network.axis_name == parts.encoder.axis_name == 'batch'


def test_no_sets():
  config = configuration.load('configs/coic/photos.py:smoke')
  with pytest.raises(ValueError, match='train_sets and test_sets must name'):
    experiment.open_sets(config.data.weights)


def test_an_absent_folder_is_named(tmp_path):
  config = configuration.load('configs/coic/mixed.py:brn')
  for options in config.data.train_sets.values():
    options.folder = str(tmp_path)
  with pytest.raises(FileNotFoundError, match='ddn expects images in'):
    experiment.build(config)
