import jax
import numpy as np
import pytest

from common import checkpoints, weight_conversion
from trnr import convert, models


@pytest.fixture(scope='module')
def tensors():
  network = models.create('msresnet', features=8, stages=2)
  variables = network.init(jax.random.key(0), np.zeros((1, 8, 8, 3), 'f4'))
  variables['inner_learning_rates'] = jax.tree.map(
    lambda depth: np.float32(1 / depth), network.depths(variables['params'])
  )
  return convert.to_torch(variables)


@pytest.mark.parametrize('name', ['rain100l', 'rain100h'])
def test_published_weights_come_back_exactly(name, checkpoint):
  tensors = checkpoint(name)
  again = convert.to_torch(convert.from_torch(tensors))
  assert list(again) == list(tensors)
  for key, value in tensors.items():
    assert again[key].dtype == value.dtype
    np.testing.assert_array_equal(again[key], value)


def test_published_depths(golden, published):
  params = published('rain100l')['params']
  network = models.create('msresnet')
  published_rates = convert.to_torch(
    {
      'params': params,
      'batch_stats': published('rain100l')['batch_stats'],
      'inner_learning_rates': network.depths(params),
    }
  )['update_lr']
  stored = golden('trnr/schedules.npz')
  np.testing.assert_array_equal(published_rates, stored['layer_index'])


@pytest.mark.parametrize('stages', [1, 2, 6])
def test_published_depths_of_other_sizes(golden, stages):
  network = models.create('msresnet', features=4, stages=stages)
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), np.zeros((1, 8, 8, 3), 'f4')
  )
  variables = jax.tree.map(lambda x: np.zeros(x.shape, 'f4'), shapes)
  depths = network.depths(variables['params'])
  found = convert.to_torch(variables | {'inner_learning_rates': depths})
  stored = golden('trnr/schedules.npz')[f'layer_index_{stages}stages']
  np.testing.assert_array_equal(found['update_lr'], stored)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('msresnet', {'block': 'concatenating', 'aggregate_input': True}),
    ('msresnet', {'attention': False, 'channels': 1, 'noise_map': True}),
    ('dnnet', {'channels': 1}),
    ('ddn', {}),
    ('adn', {}),
  ],
)
def test_round_trip(name, options):
  sizes = {} if name == 'ddn' else {'stages': 2}
  network = models.create(name, features=8, **sizes, **options)
  image = np.zeros((1, 31, 31, network.channels), 'f4')
  sigma = {'sigma': np.zeros((1,), 'f4')} if network.needs_sigma else {}
  variables = network.init(jax.random.key(0), image, **sigma)
  tensors = convert.to_torch(variables)
  assert models.create(**convert.describe(tensors)) == network
  again = convert.from_torch(tensors)
  assert jax.tree.structure(again) == jax.tree.structure(variables)
  jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_every_tensor_is_accounted_for(tensors):
  prefix = 'net.layer_dict.'
  for change, message in (
    ({f'{prefix}extra.weight': np.zeros(2)}, 'unused extra.weight'),
    ({f'{prefix}bn_tail.bias': np.zeros(9)}, r'bn_tail.bias has shape'),
    ({'update_lr': np.zeros(3)}, r'update_lr has shape \[3\], needed \[81\]'),
  ):
    with pytest.raises(ValueError, match=message):
      convert.from_torch(tensors | change)
  fewer = {k: v for k, v in tensors.items() if 'cbr3.prelu' not in k}
  with pytest.raises(ValueError, match=r'missing body1.*cbr3.prelu.weight'):
    convert.from_torch(fewer)
  with pytest.raises(ValueError, match='no network'):
    convert.from_torch({'conv.weight': np.zeros((3, 3))})
  with pytest.raises(ValueError, match='no network'):
    convert.to_torch({'params': {'dense': {}}})


def test_command_goes_there_and_back(tensors, tmp_path, capsys):
  published, ours, again = (
    str(tmp_path / f'{name}.safetensors') for name in ('a', 'b', 'c')
  )
  weight_conversion.write_tensors(published, tensors)
  convert.main([published, ours])
  assert f'{len(tensors)} tensors of msresnet' in capsys.readouterr().out
  variables, description = checkpoints.load_model(ours)
  assert description['model']['stages'] == 2
  assert set(variables) == {'params', 'batch_stats', 'inner_learning_rates'}
  convert.main(['--to_torch', ours, again])
  found = weight_conversion.read_tensors(again)
  assert found.keys() == tensors.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(found[name], value)


def test_command_says_what_is_wrong(tmp_path, capsys):
  absent = str(tmp_path / 'absent.safetensors')
  with pytest.raises(SystemExit):
    convert.main([absent, str(tmp_path / 'out.safetensors')])
  assert 'absent.safetensors' in capsys.readouterr().err
