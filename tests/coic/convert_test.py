"""Published weights: names, layouts, reports, and the command.

That converted weights give the published outputs is in models/.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coic import convert, models
from coic.encoder import Encoder
from common import checkpoints, weight_conversion

PUBLISHED = {'coic': 'brn_coic.npz', 'upstream': 'brn_baseline.npz'}


def random_variables(name, **options):
  image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
  init = models.create(name, **options).init
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(x.dtype),
    jax.eval_shape(init, jax.random.key(0), image),
  )


def assert_same(actual, desired):
  assert jax.tree.structure(actual) == jax.tree.structure(desired)
  jax.tree.map(np.testing.assert_array_equal, actual, desired)


@pytest.mark.parametrize('modulated', [True, False])
@pytest.mark.parametrize('name', models.names())
def test_round_trip_is_exact(narrow, name, modulated):
  options = narrow(name)
  variables = random_variables(name, modulated=modulated, **options)
  state_dict = convert.to_torch(name, variables)
  assert_same(convert.from_torch(name, state_dict, **options), variables)


def test_upstream_names_of_brn():
  variables = random_variables('brn', modulated=False, iterations=1)
  state_dict = convert.to_torch('brn', variables, naming='upstream')
  assert state_dict['conv0_r.0.weight'].shape == (32, 6, 3, 3)
  block = variables['params']['iteration']['background']['block5_conv2']
  np.testing.assert_array_equal(state_dict['res_conv5.2.bias'], block['bias'])
  assert_same(convert.from_torch('brn', state_dict), variables)


@pytest.mark.parametrize('naming', PUBLISHED)
def test_every_published_tensor_is_used(shared, naming):
  path = shared(f'checkpoints/coic/{PUBLISHED[naming]}')
  tensors = weight_conversion.read_tensors(path)
  variables = convert.from_torch('brn', tensors)
  assert_same(convert.to_torch('brn', variables, naming=naming), tensors)


def test_differences_are_all_named():
  variables = random_variables('brn', modulated=False)
  state_dict = convert.to_torch('brn', variables)
  bias = state_dict.pop('conv_i.conv.base_conv.conv.bias')
  state_dict['conv_x.conv.base_conv.conv.bias'] = bias
  with pytest.raises(ValueError, match='not those of brn') as error:
    convert.from_torch('brn', state_dict)
  assert 'missing conv_i.conv.base_conv.conv.bias' in str(error.value)
  assert 'unused conv_x.conv.base_conv.conv.bias' in str(error.value)


def test_naming_that_does_not_exist():
  with pytest.raises(ValueError, match="naming 'mine' must be one of"):
    convert.to_torch('brn', {}, naming='mine')
  generators = random_variables('brn')
  with pytest.raises(ValueError, match=r'no rule names .*generator'):
    convert.to_torch('brn', generators, naming='upstream')


def test_command_goes_both_ways(tmp_path, capsys):
  variables = random_variables('brn')
  source, ours, back = (
    tmp_path / name
    for name in ('source.npz', 'ours.safetensors', 'back.safetensors')
  )
  tensors = convert.to_torch('brn', variables)
  np.savez(source, **tensors)
  convert.main([str(source), str(ours), '--model', 'brn'])
  assert '224 tensors of brn' in capsys.readouterr().out
  loaded, description = checkpoints.load_model(ours)
  assert_same(loaded, variables)
  network = models.create(**description['model'])
  assert network == models.create('brn')
  convert.main([str(ours), str(back), '--model', 'brn', '--to', 'coic'])
  assert_same(weight_conversion.read_tensors(back), tensors)


@pytest.mark.parametrize(
  ('source', 'target', 'message'),
  [
    ('absent.npz', 'out.safetensors', 'absent.npz'),
    ('pickled.npz', 'out.safetensors', 'holds no plain arrays'),
    ('cut.npz', 'out.safetensors', 'holds no plain arrays'),
    ('cut.npz', 'out.npz', 'out.npz must end in .safetensors'),
  ],
)
def test_command_reports_what_is_wrong(
  source, target, message, tmp_path, capsys
):
  np.savez(tmp_path / 'pickled.npz', x=np.array([{}], object))
  (tmp_path / 'cut.npz').write_bytes(b'PK\x03\x04')
  with pytest.raises(SystemExit):
    convert.main([str(tmp_path / source), target, '--model', 'brn'])
  assert message in capsys.readouterr().err


def test_a_parameter_with_two_names(narrow):
  options = narrow('dgunet')
  variables = random_variables('dgunet', modulated=False, **options)
  state_dict = convert.to_torch('dgunet', variables)
  first, second = (f'shallow_feat{i}.1.body.1.weight' for i in (1, 7))
  np.testing.assert_array_equal(state_dict[first], state_dict[second])
  state_dict[second] = state_dict[second] + 1
  with pytest.raises(ValueError, match=f'{second} must be there, and equal'):
    convert.from_torch('dgunet', state_dict, **options)


def test_counters_of_batch_norm_are_left_out():
  encoder = Encoder(features=2, embedding_features=4)
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), image)
  variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
  tensors = convert.to_torch('encoder', variables)
  tensors['resblock.0.block.1.num_batches_tracked'] = np.array(9)
  options = {'features': 2, 'embedding_features': 4}
  assert_same(convert.from_torch('encoder', tensors, **options), variables)
