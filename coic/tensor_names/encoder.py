"""The encoder in the program of CoIC."""

from common.weight_conversion import Rules

RULES: Rules = {
  'stem': 'conv1',
  'block{i}/conv1': 'resblock.{i-1}.block.0',
  'block{i}/norm1': 'resblock.{i-1}.block.1',
  'block{i}/conv2': 'resblock.{i-1}.block.3',
  'block{i}/norm2': 'resblock.{i-1}.block.4',
  'block{i}/shortcut_conv': 'resblock.{i-1}.short_cut.0',
  'block{i}/shortcut_norm': 'resblock.{i-1}.short_cut.1',
  'linear1': 'mlp.0',
  'linear2': 'mlp.2',
}
