"""Names that timm and torchvision give to the paths of our variables."""

from collections.abc import Mapping

from common.weight_conversion import Rules
from rsdjax.models import Network
from rsdjax.models.convnext import ConvNeXt
from rsdjax.models.mixer import MlpMixer
from rsdjax.models.mobilenet import MobileNetV2
from rsdjax.models.resmlp import ResMlp
from rsdjax.models.resnet import ResNet
from rsdjax.models.swin import SwinTransformer
from rsdjax.models.vit import VisionTransformer

_RESNET = {
  'stem_conv': 'conv1',
  'stem_norm': 'bn1',
  'stage{s}_block{b}/conv{i}': 'layer{s}.{b}.conv{i}',
  'stage{s}_block{b}/norm{i}': 'layer{s}.{b}.bn{i}',
  'stage{s}_block{b}/shortcut_conv': 'layer{s}.{b}.downsample.0',
  'stage{s}_block{b}/shortcut_norm': 'layer{s}.{b}.downsample.1',
  'classifier': 'fc',
}
_MOBILENET = {
  'stem/conv': 'conv_stem',
  'stem/norm': 'bn1',
  'group0_block{b}/depthwise/conv': 'blocks.0.{b}.conv_dw',
  'group0_block{b}/depthwise/norm': 'blocks.0.{b}.bn1',
  'group0_block{b}/project/conv': 'blocks.0.{b}.conv_pw',
  'group0_block{b}/project/norm': 'blocks.0.{b}.bn2',
  'group{g}_block{b}/expand/conv': 'blocks.{g}.{b}.conv_pw',
  'group{g}_block{b}/expand/norm': 'blocks.{g}.{b}.bn1',
  'group{g}_block{b}/depthwise/conv': 'blocks.{g}.{b}.conv_dw',
  'group{g}_block{b}/depthwise/norm': 'blocks.{g}.{b}.bn2',
  'group{g}_block{b}/project/conv': 'blocks.{g}.{b}.conv_pwl',
  'group{g}_block{b}/project/norm': 'blocks.{g}.{b}.bn3',
  'head/conv': 'conv_head',
  'head/norm': 'bn2',
  'classifier': 'classifier',
}
_CONVNEXT = {
  'stem_conv': 'stem.0',
  'stem_norm': 'stem.1',
  'stage{s}_norm': 'stages.{s-1}.downsample.0',
  'stage{s}_conv': 'stages.{s-1}.downsample.1',
  'stage{s}_block{b}/depthwise_conv': 'stages.{s-1}.blocks.{b}.conv_dw',
  'stage{s}_block{b}/norm': 'stages.{s-1}.blocks.{b}.norm',
  'stage{s}_block{b}/mlp/expand': 'stages.{s-1}.blocks.{b}.mlp.fc1',
  'stage{s}_block{b}/mlp/project': 'stages.{s-1}.blocks.{b}.mlp.fc2',
  'stage{s}_block{b}/layer_scale': 'stages.{s-1}.blocks.{b}.gamma',
  'norm': 'head.norm',
  'classifier': 'head.fc',
}
_VIT = {
  'patches/conv': 'patch_embed.proj',
  'class_token': 'cls_token',
  'position_embedding': 'pos_embed',
  'block{b}/norm{i}': 'blocks.{b}.norm{i}',
  'block{b}/attention/qkv': 'blocks.{b}.attn.qkv',
  'block{b}/attention/project': 'blocks.{b}.attn.proj',
  'block{b}/mlp/expand': 'blocks.{b}.mlp.fc1',
  'block{b}/mlp/project': 'blocks.{b}.mlp.fc2',
  'norm': 'norm',
  'classifier': 'head',
}
_SWIN = {
  'patches/conv': 'patch_embed.proj',
  'patch_norm': 'patch_embed.norm',
  'stage{s}_block{b}/norm{i}': 'layers.{s-1}.blocks.{b}.norm{i}',
  'stage{s}_block{b}/attention/qkv': 'layers.{s-1}.blocks.{b}.attn.qkv',
  'stage{s}_block{b}/attention/project': 'layers.{s-1}.blocks.{b}.attn.proj',
  'stage{s}_block{b}/relative_position_table': (
    'layers.{s-1}.blocks.{b}.attn.relative_position_bias_table'
  ),
  'stage{s}_block{b}/mlp/expand': 'layers.{s-1}.blocks.{b}.mlp.fc1',
  'stage{s}_block{b}/mlp/project': 'layers.{s-1}.blocks.{b}.mlp.fc2',
  'stage{s}_merging/norm': 'layers.{s-2}.downsample.norm',
  'stage{s}_merging/reduction': 'layers.{s-2}.downsample.reduction',
  'norm': 'norm',
  'classifier': 'head',
}
_MIXER = {
  'patches/conv': 'stem.proj',
  'block{b}/norm{i}': 'blocks.{b}.norm{i}',
  'block{b}/mlp_tokens/expand': 'blocks.{b}.mlp_tokens.fc1',
  'block{b}/mlp_tokens/project': 'blocks.{b}.mlp_tokens.fc2',
  'block{b}/mlp_channels/expand': 'blocks.{b}.mlp_channels.fc1',
  'block{b}/mlp_channels/project': 'blocks.{b}.mlp_channels.fc2',
  'norm': 'norm',
  'classifier': 'head',
}
_RESMLP = {
  'patches/conv': 'stem.proj',
  'block{b}/affine{i}/alpha': 'blocks.{b}.norm{i}.alpha',
  'block{b}/affine{i}/beta': 'blocks.{b}.norm{i}.beta',
  'block{b}/linear_tokens': 'blocks.{b}.linear_tokens',
  'block{b}/mlp_channels/expand': 'blocks.{b}.mlp_channels.fc1',
  'block{b}/mlp_channels/project': 'blocks.{b}.mlp_channels.fc2',
  'block{b}/layer_scale{i}': 'blocks.{b}.ls{i}',
  'norm/alpha': 'norm.alpha',
  'norm/beta': 'norm.beta',
  'classifier': 'head',
}
_TIMM: Mapping[type[Network], Rules] = {
  ResNet: _RESNET,
  MobileNetV2: _MOBILENET,
  ConvNeXt: _CONVNEXT,
  VisionTransformer: _VIT,
  SwinTransformer: _SWIN,
  MlpMixer: _MIXER,
  ResMlp: _RESMLP,
}
_CURRENT_SWIN = {
  **_SWIN,
  'stage{s}_merging/norm': 'layers.{s-1}.downsample.norm',
  'stage{s}_merging/reduction': 'layers.{s-1}.downsample.reduction',
  'classifier': 'head.fc',
}

# Torchvision's MobileNetV2 counts its blocks through all groups.
_TORCHVISION_MOBILENET = {
  'stem/conv': 'features.0.0',
  'stem/norm': 'features.0.1',
  'group0_block0/depthwise/conv': 'features.1.conv.0.0',
  'group0_block0/depthwise/norm': 'features.1.conv.0.1',
  'group0_block0/project/conv': 'features.1.conv.1',
  'group0_block0/project/norm': 'features.1.conv.2',
  **{
    f'group{group}_block{{b}}/{ours}': f'features.{{b+{first}}}.conv.{theirs}'
    for group, first in enumerate((2, 4, 7, 11, 14, 17), 1)
    for ours, theirs in {
      'expand/conv': '0.0',
      'expand/norm': '0.1',
      'depthwise/conv': '1.0',
      'depthwise/norm': '1.1',
      'project/conv': '2',
      'project/norm': '3',
    }.items()
  },
  'head/conv': 'features.18.0',
  'head/norm': 'features.18.1',
  'classifier': 'classifier.1',
}
_TORCHVISION_VIT = {
  'patches/conv': 'conv_proj',
  'class_token': 'class_token',
  'position_embedding': 'encoder.pos_embedding',
  **{
    f'block{{b}}/{ours}': f'encoder.layers.encoder_layer_{{b}}.{theirs}'
    for ours, theirs in {
      'norm{i}': 'ln_{i}',
      'attention/qkv/kernel': 'self_attention.in_proj_weight',
      'attention/qkv/bias': 'self_attention.in_proj_bias',
      'attention/project': 'self_attention.out_proj',
      'mlp/expand': 'mlp.0',
      'mlp/project': 'mlp.3',
    }.items()
  },
  'norm': 'encoder.ln',
  'classifier': 'heads.head',
}


def _alternating(block: Rules, between: Rules) -> dict[str, str]:
  """Stages 1 to 4 are 'features' 1, 3, 5, 7, and what lies between 2, 4, 6."""
  rules = {}
  for stage in (1, 2, 3, 4):
    own = f'stage{stage}_'
    for ours, theirs in block.items():
      rules[f'{own}block{{b}}/{ours}'] = (
        f'features.{2 * stage - 1}.{{b}}.{theirs}'
      )
    for ours, theirs in between.items():
      rules[f'{own}{ours}'] = f'features.{2 * stage - 2}.{theirs}'
  return rules


_TORCHVISION_CONVNEXT = {
  'stem_conv': 'features.0.0',
  'stem_norm': 'features.0.1',
  **_alternating(
    {
      'depthwise_conv': 'block.0',
      'norm': 'block.2',
      'mlp/expand': 'block.3',
      'mlp/project': 'block.5',
      'layer_scale': 'layer_scale',
    },
    {'norm': '0', 'conv': '1'},
  ),
  'norm': 'classifier.0',
  'classifier': 'classifier.2',
}
_TORCHVISION_SWIN = {
  'patches/conv': 'features.0.0',
  'patch_norm': 'features.0.2',
  **_alternating(
    {
      'norm{i}': 'norm{i}',
      'attention/qkv': 'attn.qkv',
      'attention/project': 'attn.proj',
      'relative_position_table': 'attn.relative_position_bias_table',
      'mlp/expand': 'mlp.0',
      'mlp/project': 'mlp.3',
    },
    {'merging/norm': 'norm', 'merging/reduction': 'reduction'},
  ),
  'norm': 'norm',
  'classifier': 'head',
}

# By naming, and by family as far as the library has it.
NAMINGS: Mapping[str, Mapping[type[Network], Rules]] = {
  '0.6.5': _TIMM,
  'current': {**_TIMM, SwinTransformer: _CURRENT_SWIN},
  'torchvision': {
    ResNet: _RESNET,
    MobileNetV2: _TORCHVISION_MOBILENET,
    ConvNeXt: _TORCHVISION_CONVNEXT,
    VisionTransformer: _TORCHVISION_VIT,
    SwinTransformer: _TORCHVISION_SWIN,
  },
}
