"""DGUNet in the program of CoIC."""

from coic.tensor_names.modulated import modulated_layers
from common.weight_conversion import Rules

_STEPS = {
  'first_step': ('phi_0', 'phit_0', 'r0'),
  'iteration/step': ('basic.phi_1', 'basic.phit_1', 'basic.r1'),
  'last_step': ('phi_6', 'phit_6', 'r6'),
}
_STEMS = {
  'first_stem': 'shallow_feat1',
  'iteration/stem': 'basic.shallow_feat2',
  'last_stem': 'shallow_feat7',
}
_UNETS = {
  'first_unet': ('stage1_encoder', 'stage1_decoder'),
  'iteration/unet': ('basic.stage2_encoder', 'basic.stage2_decoder'),
}
_ATTENTIONS = {
  'first_attention': 'sam12',
  'iteration/attention': 'basic.sam23',
}
_BLOCK = {
  'shortcut': 'identity',
  'conv1': 'conv_1',
  'conv2': 'conv_2',
  'encoded': 'csff_enc',
  'decoded': 'csff_dec',
  'gate': 'phi',
  'offset': 'gamma',
}


def _residual_blocks() -> dict[str, str]:
  """Published names of residual blocks, by the paths of ours."""
  return {
    f'{step}/{block}': name
    for step, names in _STEPS.items()
    for block, name in zip(('degradation', 'adjoint'), names, strict=False)
  }


def _modulated() -> dict[str, str]:
  """Published names of modulated layers, by the paths of ours."""
  names = {
    'iteration/merge/subspace': 'basic.merge12.subnet',
    'iteration/merge/output': 'basic.merge12.conv_block',
    'last': 'concat67',
    'output': 'tail',
  }
  for ours, theirs in _residual_blocks().items():
    names |= {f'{ours}/conv1': f'{theirs}.body.0'}
    names |= {f'{ours}/conv2': f'{theirs}.body.2'}
  for ours, theirs in _STEMS.items():
    names |= {f'{ours}/conv': f'{theirs}.0'}
    names |= {f'{ours}/attention/conv1': f'{theirs}.1.body.0'}
    names |= {f'{ours}/attention/conv2': f'{theirs}.1.body.2'}
  for ours, theirs in _ATTENTIONS.items():
    names |= {f'{ours}/features': f'{theirs}.conv1'}
    names |= {f'{ours}/image': f'{theirs}.conv2'}
  for ours, (encoder, decoder) in _UNETS.items():
    names |= {f'{ours}/down{{i}}': f'{encoder}.body.{{i-1}}.downsample'}
    for layer, published in _BLOCK.items():
      names |= {
        f'{ours}/encoder{{i}}/{layer}': f'{encoder}.body.{{i-1}}.{published}'
      }
    for level in (1, 2, 3):  # Published in the order in which they run.
      up = f'{decoder}.body.{3 - level}'
      names |= {f'{ours}/decoder{level}/up': f'{up}.up'}
      names |= {f'{ours}/skip{level}': f'{decoder}.skip_conv.{3 - level}'}
      for layer, published in _BLOCK.items():
        names |= {
          f'{ours}/decoder{level}/block/{layer}': f'{up}.conv_block.{published}'
        }
  return names


RULES: Rules = {
  **modulated_layers(_modulated()),
  **{
    f'{ours}/encoder{{i}}/norm': f'{encoder}.body.{{i-1}}.norm'
    for ours, (encoder, _) in _UNETS.items()
  },
  **{
    f'{ours}/attention/attention{i}': f'{theirs}.1.CA.conv_du.{2 * i - 2}'
    for ours, theirs in _STEMS.items()
    for i in (1, 2)
  },
  **{
    f'{ours}/slope': f'{theirs}.body.1.weight'
    for ours, theirs in _residual_blocks().items()
  },
  **{f'{ours}/size': name for ours, (_, _, name) in _STEPS.items()},
  'stem_slope': 'shallow_feat1.1.body.1.weight',
  'iteration/stem_slope': 'basic.shallow_feat2.1.body.1.weight',
}

# Names that a published file has besides: of one parameter with another name.
SHARED = {'shallow_feat7.1.body.1.weight': 'shallow_feat1.1.body.1.weight'}
