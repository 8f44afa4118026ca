"""RCDNet in the program of CoIC."""

from coic.tensor_names.modulated import modulated_layers
from common.weight_conversion import Rules

_NETWORKS = {
  'stages/stage{s}/map_network': 'proxNet_M_S.{s-1}',
  'stages/stage{s}/background_network': 'proxNet_B_S.{s-1}',
  'first_network': 'proxNet_B_0',
  'last_network': 'proxNet_B_L',
}

RULES: Rules = {
  **modulated_layers(
    {
      f'{ours}/block{{b}}_conv{{i}}': f'{theirs}.layer.{{b-1}}.conv{{i}}'
      for ours, theirs in _NETWORKS.items()
    }
  ),
  **{
    f'{ours}/block{{b}}_norm{{i}}': f'{theirs}.layer.{{b-1}}.bn{{i}}'
    for ours, theirs in _NETWORKS.items()
  },
  'stages/stage{s}/map_network/threshold': 'proxNet_M_S.{s-1}.tau',
  'carried/kernel': 'cz',
  'first_dictionary/kernel': 'c0',
  'dictionary/kernel': 'c',
  'rain_threshold': 'tau',
  'map_steps': 'm_step',
  'background_steps': 'b_step',
}
