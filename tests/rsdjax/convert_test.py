"""Weights from timm and back: names, layouts, reports, and the command.

That converted weights give timm's outputs is in models/golden_test.py and
models/timm_parity_test.py.
"""

import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import weight_conversion
from rsdjax import convert, experiment, models, tensor_names

# A short member of each family, and what shortens it.
SMALL = {
  'resnet18': {'depths': (1, 1, 1, 1), 'width': 8},
  'resnet50': {'depths': (1, 1, 1, 1), 'width': 8},
  'resnet20': {'depths': (1, 1, 1)},
  'mobilenetv2_100': {'groups': ((1, 8, 1, 1), *[(6, 8, 2, 2)] * 6)},
  'convnext_tiny': {'depths': (1, 2, 1, 1), 'width': 8, 'image_size': 32},
  'deit_tiny_patch16_224': {'depth': 2, 'image_size': 64},
  'swin_pico_patch4_window7_224': {
    'depths': (1, 2, 1, 1),
    'width': 16,
    'window_size': 2,
    'image_size': 64,
  },
  'mixer_b16_224': {'depth': 2, 'width': 16, 'image_size': 32},
  'resmlp_12_224': {'depth': 2, 'width': 16, 'image_size': 32},
}
VIT = {'num_classes': 10, 'depth': 2, 'width': 24}
small = pytest.mark.parametrize('name', SMALL)


def random_variables(name, **options):
  side = options.get('image_size') or models.names()[name].image_size
  shapes = jax.eval_shape(
    models.create(name, **options).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes
  )


def assert_same(actual, desired):
  assert jax.tree.structure(actual) == jax.tree.structure(desired)
  jax.tree.map(np.testing.assert_array_equal, actual, desired)


@pytest.fixture
def vit():
  """Variables of a small ViT and the same as a state dict of timm."""
  variables = random_variables('vit_tiny_patch4_32', **VIT)
  return variables, convert.to_timm('vit_tiny_patch4_32', variables)


def from_vit(state_dict, **options):
  return convert.from_timm('vit_tiny_patch4_32', state_dict, **VIT | options)


@pytest.mark.parametrize(
  ('name', 'naming'),
  [
    (name, naming)
    for name in SMALL
    for naming in tensor_names.NAMINGS
    # Torchvision has neither Mixer nor ResMLP.
    if naming != 'torchvision' or name not in ('mixer_b16_224', 'resmlp_12_224')
  ],
)
def test_round_trip_is_exact(name, naming):
  variables = random_variables(name, **SMALL[name])
  state_dict = convert.to_timm(name, variables, naming=naming)
  assert_same(convert.from_timm(name, state_dict, **SMALL[name]), variables)


@small
def test_variables_are_those_of_the_model(name):
  variables = random_variables(name, **SMALL[name])
  state_dict = convert.to_timm(name, variables)
  converted = convert.from_timm(name, state_dict, **SMALL[name])
  side = SMALL[name].get('image_size') or models.names()[name].image_size
  model = models.create(name, **SMALL[name])
  logits = jax.eval_shape(model.apply, converted, jnp.zeros((1, side, side, 3)))
  assert logits.shape == (1, 1000)
  for x in jax.tree.leaves(converted):
    assert x.flags.c_contiguous


def test_layer_scales_of_torchvision_are_maps():
  variables = random_variables('convnext_tiny', **SMALL['convnext_tiny'])
  ours = variables['params']['stage2_block1']['layer_scale']
  for naming, name, shape in (
    ('0.6.5', 'stages.1.blocks.1.gamma', (16,)),
    ('torchvision', 'features.3.1.layer_scale', (16, 1, 1)),
  ):
    found = convert.to_timm('convnext_tiny', variables, naming=naming)[name]
    assert found.shape == shape
    np.testing.assert_array_equal(found.reshape(-1), ours)


def test_older_names_of_torchvision_are_known(vit):
  variables, _ = vit
  new = convert.to_timm('vit_tiny_patch4_32', variables, naming='torchvision')
  old = {
    name.replace('mlp.0.', 'mlp.linear_1.').replace(
      'mlp.3.', 'mlp.linear_2.'
    ): x
    for name, x in new.items()
  }
  assert old.keys() != new.keys()
  assert_same(from_vit(old), variables)


def test_torchvision_lacks_two_families():
  with pytest.raises(ValueError, match='torchvision has no network of the fam'):
    convert.to_timm('mixer_b16_224', {}, naming='torchvision')


def test_layouts():
  state_dict = convert.to_timm(
    'resnet18', random_variables('resnet18', **SMALL['resnet18'])
  )
  params = convert.from_timm('resnet18', state_dict, **SMALL['resnet18'])[
    'params'
  ]
  assert (
    params['stem_conv']['kernel'][1, 2, 0, 5]
    == (state_dict['conv1.weight'][5, 0, 1, 2])
  )
  assert params['classifier']['kernel'][3, 7] == state_dict['fc.weight'][7, 3]


def test_derived_tensors_are_ignored():
  name = 'swin_pico_patch4_window7_224'
  variables = random_variables(name, **SMALL[name])
  state_dict = convert.to_timm(name, variables) | {
    'layers.0.blocks.0.attn.relative_position_index': np.zeros((4, 4), int),
    'layers.0.blocks.1.attn_mask': np.zeros((64, 4, 4)),
  }
  assert_same(convert.from_timm(name, state_dict, **SMALL[name]), variables)
  variables = random_variables('resnet18', **SMALL['resnet18'])
  state_dict = convert.to_timm('resnet18', variables) | {
    'bn1.num_batches_tracked': np.array(3)
  }
  assert_same(
    convert.from_timm('resnet18', state_dict, **SMALL['resnet18']), variables
  )


def test_every_difference_is_an_error(vit):
  _, state_dict = vit
  del state_dict['norm.bias'], state_dict['blocks.1.attn.qkv.weight']
  state_dict['fc_norm.weight'] = np.ones(24)
  state_dict['head.weight'] = np.ones((1000, 24))
  with pytest.raises(ValueError, match='not those of vit_tiny') as error:
    from_vit(state_dict)
  assert str(error.value).splitlines()[1:] == [
    'missing blocks.1.attn.qkv.weight',
    'missing norm.bias',
    'unused fc_norm.weight',
    'head.weight has shape (1000, 24), needed (10, 24)',
  ]


def test_weights_of_another_network_are_an_error(vit):
  with pytest.raises(ValueError, match=r'missing conv1\.weight'):
    convert.from_timm('resnet18', vit[1])


def test_new_classifier(vit, caplog):
  variables, state_dict = vit
  state_dict['head.weight'] = np.ones((1000, 24), np.float32)
  del state_dict['head.bias']
  with caplog.at_level(logging.WARNING):
    converted = from_vit(state_dict, new_classifier=True)
  assert 'missing head.bias' in caplog.text
  classifier = converted['params'].pop('classifier')
  variables['params'].pop('classifier')
  assert_same(converted, variables)
  np.testing.assert_array_equal(classifier['bias'], np.zeros(10))
  assert classifier['kernel'].std() == pytest.approx(0.02, rel=0.2)
  other = from_vit(state_dict, new_classifier=True, rng=jax.random.key(1))
  assert (other['params']['classifier']['kernel'] != classifier['kernel']).any()


def test_expected_differences(vit, caplog):
  variables, state_dict = vit
  state_dict['head.weight'] = np.ones((1000, 24), np.float32)
  state_dict['pre_logits.fc.weight'] = np.ones(3)
  del state_dict['norm.bias']
  expected = ('head.weight', 'pre_logits.*', 'norm.bias')
  with caplog.at_level(logging.WARNING):
    converted = from_vit(state_dict, expected=expected)
  for name in ('head.weight', 'pre_logits.fc.weight', 'norm.bias'):
    assert name in caplog.text
  np.testing.assert_array_equal(converted['params']['norm']['bias'], 0)
  assert_same(
    converted['params']['classifier']['bias'],
    variables['params']['classifier']['bias'],
  )


def test_low_precision_becomes_float32(vit):
  halves = {k: x.astype(np.float16) for k, x in vit[1].items()}
  converted = from_vit(halves)
  assert {x.dtype for x in jax.tree.leaves(converted)} == {np.dtype('float32')}


def cubic_resize(rows, new):
  """Upsampling along the first axis by the kernel of Keys, a = -1/2."""
  old = len(rows)
  places = (np.arange(new) + 0.5) * old / new - 0.5
  distance = np.abs(places[:, None] - np.arange(old)[None])
  near = 1.5 * distance**3 - 2.5 * distance**2 + 1
  far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
  weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
  weights /= weights.sum(1, keepdims=True)
  return np.tensordot(weights, rows, 1)


def test_position_embeddings_are_resized_on_request(vit, caplog):
  _, state_dict = vit
  with pytest.raises(ValueError, match=r'pos_embed has shape \(1, 65, 24\)'):
    from_vit(state_dict, image_size=48)
  with caplog.at_level(logging.WARNING):
    converted = from_vit(state_dict, image_size=48, resize_positions=True)
  assert 'pos_embed' in caplog.text
  found = state_dict['pos_embed'][0]
  resized = converted['params']['position_embedding'][0]
  np.testing.assert_array_equal(resized[0], found[0])
  rows = cubic_resize(found[1:].reshape(8, 8, 24), 12)
  grid = cubic_resize(rows.swapaxes(0, 1), 12).swapaxes(0, 1)
  np.testing.assert_allclose(
    resized[1:].reshape(12, 12, 24), grid, rtol=1e-4, atol=1e-5
  )


def test_relative_position_tables_are_resized_on_request():
  name = 'swin_pico_patch4_window7_224'
  variables = random_variables(name, **SMALL[name])
  state_dict = convert.to_timm(name, variables)
  larger = SMALL[name] | {'window_size': 4}
  with pytest.raises(ValueError, match='relative_position_bias_table has'):
    convert.from_timm(name, state_dict, **larger)
  converted = convert.from_timm(
    name, state_dict, resize_positions=True, **larger
  )
  block = converted['params']['stage1_block0']
  assert block['relative_position_table'].shape == (49, 2)


def test_tensors_that_no_interpolation_fits_stay_errors(vit):
  _, state_dict = vit
  state_dict['pos_embed'] = np.ones((1, 30, 24), np.float32)
  with pytest.raises(ValueError, match='pos_embed has shape'):
    from_vit(state_dict, resize_positions=True)


def test_unknown_names(vit):
  with pytest.raises(ValueError, match="unknown network 'vit'"):
    convert.from_timm('vit', vit[1])
  with pytest.raises(ValueError, match="unknown network 'vit'"):
    convert.to_timm('vit', vit[0])
  with pytest.raises(ValueError, match=r"naming '1\.0' must be one of"):
    convert.to_timm('vit_tiny_patch4_32', vit[0], naming='1.0')
  with pytest.raises(ValueError, match='no rule names params/block0/attention'):
    convert.to_timm('resnet18', vit[0])


def test_two_variables_with_one_name():
  variables = {'params': {'a': {'bias': np.ones(1)}, 'b': {'bias': np.ones(1)}}}
  with pytest.raises(ValueError, match='one name'):
    weight_conversion.to_torch(variables, {'a': 'c', 'b': 'c'})


def test_command_there_and_back(tmp_path, capsys):
  name = 'resnet20'
  variables = random_variables(name, num_classes=7)
  timm_file = tmp_path / 'timm.safetensors'
  ours, back = tmp_path / 'ours.safetensors', tmp_path / 'back.safetensors'
  state_dict = convert.to_timm(name, variables)
  weight_conversion.write_tensors(timm_file, state_dict)
  options = ['--model', name]
  convert.main([str(timm_file), str(ours), *options, '--num_classes', '7'])
  assert f'{len(state_dict)} tensors of resnet20' in capsys.readouterr().out
  assert_same(
    weight_conversion.unflatten(weight_conversion.read_tensors(ours)), variables
  )
  # Our file serves as the teacher of a run.
  network, variables, _ = experiment.load_network(ours)
  assert network.num_classes == 7 and 'params' in variables
  convert.main([str(ours), str(back), *options, '--to', '0.6.5'])
  assert_same(weight_conversion.read_tensors(back), state_dict)


@pytest.mark.parametrize(
  ('source', 'target', 'message'),
  [
    ('absent.safetensors', 'out.safetensors', 'absent.safetensors'),
    ('cut.safetensors', 'out.safetensors', 'is not a safetensors file'),
    ('other.txt', 'out.safetensors', 'must end in .safetensors, .npz'),
    ('whole.safetensors', 'out.pth', 'out.pth must end in .safetensors'),
    ('whole.safetensors', 'out.safetensors', 'missing conv1.weight'),
  ],
)
def test_command_errors(tmp_path, capsys, source, target, message):
  weight_conversion.write_tensors(
    tmp_path / 'whole.safetensors', {'fc.bias': np.ones(100, np.float32)}
  )
  whole = (tmp_path / 'whole.safetensors').read_bytes()
  (tmp_path / 'cut.safetensors').write_bytes(whole[:-5])
  paths = [str(tmp_path / source), str(tmp_path / target)]
  options = ['--model', 'resnet20', '--num_classes', '100']
  with pytest.raises(SystemExit) as exit_:
    convert.main([*paths, *options])
  assert exit_.value.code != 0
  assert message in capsys.readouterr().err
  assert not (tmp_path / target).exists()


def test_pth_needs_torch(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(ImportError, match=r'needs PyTorch: pip install "rsdjax'):
    weight_conversion.read_tensors(tmp_path / 'weights.pth')


def test_pth(tmp_path):
  torch = pytest.importorskip('torch')
  tensors = {
    'module.a': torch.arange(6.0).reshape(2, 3),
    'module.b': torch.ones(2, dtype=torch.bfloat16),
  }
  torch.save({'state_dict': tensors, 'epoch': 3}, tmp_path / 'a.pth')
  loaded = weight_conversion.read_tensors(tmp_path / 'a.pth')
  np.testing.assert_array_equal(loaded['a'], np.arange(6.0).reshape(2, 3))
  np.testing.assert_array_equal(loaded['b'], np.ones(2))
  torch.save({'a': 3}, tmp_path / 'number.pth')
  with pytest.raises(ValueError, match='other things than named tensors'):
    weight_conversion.read_tensors(tmp_path / 'number.pth')
  torch.save({'state_dict': SystemExit}, tmp_path / 'unsafe.pth')
  for name in ('unsafe.pth', 'cut.pth'):
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'a.pth').read_bytes()[:50])
    with pytest.raises(ValueError, match='holds no plain tensors'):
      weight_conversion.read_tensors(tmp_path / name)
