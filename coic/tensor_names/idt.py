"""IDT in the program of CoIC."""

from coic.tensor_names.modulated import modulated_layers
from common.weight_conversion import Rules

ATTENTION_RULES: Rules = {
  'relative_position_table': 'relative_position_bias_table',
  'query': 'qkv.to_q',
  'key_value': 'qkv.to_kv',
  'local': 'qkv.proj',
  'local_depthwise': 'Position_Extract.0',
  'local_pointwise': 'Position_Extract.1',
  'project': 'proj',
}
FEED_FORWARD_RULES: Rules = {
  'expand': 'linear1.0',
  'project': 'linear2.0',
  **modulated_layers({'depthwise': 'dwconv.0'}),
}
# Of both kinds: a spatial block has no first norms.
BLOCK_RULES: Rules = {
  'norm1': 'norm1',
  'norm1_key_value': 'norm1_kv',
  'norm2': 'norm2',
  'context/linear': 'context_emb.1',
  **{f'attention/{ours}': f'attn.{s}' for ours, s in ATTENTION_RULES.items()},
  **{
    f'feed_forward/{ours}': f'mlp.{s}' for ours, s in FEED_FORWARD_RULES.items()
  },
}
# The decoder's levels are counted from the deepest.
_LEVELS = {'bottleneck': 'bottle', 'encoder{l}': 'encoderlayer_{l-1}'}
_LEVELS |= {f'decoder{i}': f'decoderlayer_{4 - i}' for i in range(1, 5)}

RULES: Rules = {
  **modulated_layers(
    {
      'input': 'input_proj.proj.0',
      'output': 'output_proj.proj.0',
      'down{l}': 'dowsample_{l-1}.conv.0',
      **{f'up{i}': f'upsample_{4 - i}.deconv.0' for i in range(1, 5)},
    }
  ),
  **{
    f'{level}_block{{b}}/{ours}': f'{published}.blocks.{{b}}.{theirs}'
    for level, published in _LEVELS.items()
    for ours, theirs in BLOCK_RULES.items()
  },
}
