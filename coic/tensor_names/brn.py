"""BRN in the program of CoIC, and in its own."""

from coic.tensor_names.modulated import modulated_layers
from common.weight_conversion import Rules

_PARTS = {'input': 'conv0', 'output': 'conv'}
_PARTS |= {f'lstm_{gate}': f'conv_{gate}' for gate in 'ifgo'}
_BRANCHES = {'rain': '_r', 'background': ''}

RULES: Rules = modulated_layers(
  {
    f'iteration/{branch}/{ours}': f'{theirs}{suffix}.conv'
    for branch, suffix in _BRANCHES.items()
    for ours, theirs in _PARTS.items()
  }
  | {
    f'iteration/{branch}/block{{b}}_conv{i}': (f'res_conv{{b}}{suffix}.conv{i}')
    for branch, suffix in _BRANCHES.items()
    for i in (1, 2)
  }
)
# The program of BRN, which knows no generators.
UPSTREAM_RULES: Rules = {
  f'iteration/{branch}/{ours}': f'{theirs}{suffix}.0'
  for branch, suffix in _BRANCHES.items()
  for ours, theirs in _PARTS.items()
} | {
  f'iteration/{branch}/block{{b}}_conv{i}': f'res_conv{{b}}{suffix}.{2 * i - 2}'
  for branch, suffix in _BRANCHES.items()
  for i in (1, 2)
}
