"""DRSformer in the program of CoIC."""

from coic.tensor_names.modulated import modulated_layers
from common.weight_conversion import Rules

ATTENTION_RULES: Rules = {
  'temperature': 'temperature',
  'weight{i}': 'attn{i}',
  'query': 'to_q',
  'key_value': 'to_kv',
  'depthwise': 'qkv_dwconv',
  'project': 'project_out',
}
FEED_FORWARD_RULES: Rules = {
  'expand': 'project_in',
  'project': 'project_out',
  **modulated_layers(
    {
      'depthwise{size}': 'dwconv{size}x{size}',
      'mix{size}': 'dwconv{size}x{size}_1',
    }
  ),
}
BLOCK_RULES: Rules = {
  'norm1_query': 'norm1_q.body',
  'norm1_key_value': 'norm1_kv.body',
  'norm2': 'norm2.body',
  'context/linear': 'context_emb.1',
  **{f'attention/{ours}': f'attn.{s}' for ours, s in ATTENTION_RULES.items()},
  **{
    f'feed_forward/{ours}': f'ffn.{s}' for ours, s in FEED_FORWARD_RULES.items()
  },
}

_STEP = 'layers.1._ops.{s}'
_SEPARABLE = {
  f'separable{k}': f'{_STEP}._ops.{i}' for i, k in enumerate((1, 3, 5, 7))
}
_DILATED = {
  f'dilated{k}': f'{_STEP}._ops.{i}' for i, k in enumerate((3, 5, 7), 4)
}
EXPERT_RULES: Rules = {
  'gates1': 'layers.0.ca_fc.0',
  'gates2': 'layers.0.ca_fc.2',
  'input': 'layers.1.preprocess.op.0',
  'step{s}/merge': f'{_STEP}._out.0',
  **{
    f'step{{s}}/{ours}_pointwise{i}': f'{theirs}.op.{published}'
    for ours, theirs in _SEPARABLE.items()
    for i, published in ((1, 1), (2, 4))
  },
  **{
    f'step{{s}}/{ours}_pointwise': f'{theirs}.op.1'
    for ours, theirs in _DILATED.items()
  },
  **modulated_layers(
    {
      f'step{{s}}/{ours}_depthwise{i}': f'{theirs}.op.{published}'
      for ours, theirs in _SEPARABLE.items()
      for i, published in ((1, 0), (2, 3))
    }
    | {
      f'step{{s}}/{ours}_depthwise': f'{theirs}.op.0'
      for ours, theirs in _DILATED.items()
    }
  ),
}

_LEVELS = {
  'encoder{l}': 'encoder_level{l}',
  'bottom': 'latent',
  'decoder{l}': 'decoder_level{l}',
}
RULES: Rules = {
  **modulated_layers(
    {
      'input': 'patch_embed.proj',
      'output': 'output',
      'down{l}': 'down{l}_{l+1}.body.0',
      'up{l}': 'up{l+1}_{l}.body.0',
    }
  ),
  'reduce{l}': 'reduce_chan_level{l}',
  **{
    f'{ours}/{path}': f'{theirs}.{name}'
    for ours, theirs in {
      'compensation': 'encoder_level0',
      'refinement': 'refinement',
    }.items()
    for path, name in EXPERT_RULES.items()
  },
  **{
    f'{ours}_block{{b}}/{path}': f'{theirs}.{{b}}.{name}'
    for ours, theirs in _LEVELS.items()
    for path, name in BLOCK_RULES.items()
  },
}
