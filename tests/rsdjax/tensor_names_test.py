"""Names and shapes of tensors, as timm and torchvision document them."""

import functools

import jax
import numpy as np
import pytest

from common import weight_conversion
from rsdjax import models
from rsdjax.tensor_names import NAMINGS


@functools.cache
def _tensors(name, naming):
  """Shapes by name of a whole network, without its weights."""
  model = models.create(name)
  side = models.names()[name].image_size
  images = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
  template = jax.eval_shape(model.init, jax.random.key(0), images)
  # Views of one number take no memory.
  variables = jax.tree.map(
    lambda x: np.broadcast_to(np.float32(0), x.shape), template
  )
  rules = NAMINGS[naming][type(model)]
  return {
    key: x.shape
    for key, x in weight_conversion.to_torch(variables, rules).items()
  }


@pytest.mark.parametrize(
  ('name', 'naming', 'expected'),
  [
    (
      'resnet50',
      naming,
      {
        'conv1.weight': (64, 3, 7, 7),
        'bn1.running_var': (64,),
        'layer1.0.conv2.weight': (64, 64, 3, 3),
        'layer2.0.downsample.1.running_mean': (512,),
        'fc.weight': (1000, 2048),
      },
    )
    for naming in ('0.6.5', 'torchvision')
  ]
  + [
    (
      'mobilenetv2_100',
      '0.6.5',
      {
        'blocks.0.0.conv_dw.weight': (32, 1, 3, 3),
        'blocks.0.0.conv_pw.weight': (16, 32, 1, 1),
        'blocks.1.1.conv_pwl.weight': (24, 144, 1, 1),
        'blocks.1.1.bn3.weight': (24,),
        'conv_head.weight': (1280, 320, 1, 1),
        'classifier.bias': (1000,),
      },
    ),
    (
      'mobilenetv2_100',
      'torchvision',
      {
        'features.0.0.weight': (32, 3, 3, 3),
        'features.1.conv.1.weight': (16, 32, 1, 1),
        'features.2.conv.0.0.weight': (96, 16, 1, 1),
        'features.6.conv.2.weight': (32, 192, 1, 1),
        'features.17.conv.1.0.weight': (960, 1, 3, 3),
        'features.17.conv.3.running_var': (320,),
        'features.18.0.weight': (1280, 320, 1, 1),
        'classifier.1.weight': (1000, 1280),
      },
    ),
    (
      'convnext_tiny',
      '0.6.5',
      {
        'stem.1.weight': (96,),
        'stages.1.downsample.1.weight': (192, 96, 2, 2),
        'stages.1.blocks.1.gamma': (192,),
        'stages.0.blocks.0.mlp.fc1.weight': (384, 96),
        'head.norm.weight': (768,),
        'head.fc.bias': (1000,),
      },
    ),
    (
      'convnext_tiny',
      'torchvision',
      {
        'features.0.1.weight': (96,),
        'features.2.1.weight': (192, 96, 2, 2),
        'features.1.0.block.3.weight': (384, 96),
        'features.5.8.block.0.weight': (384, 1, 7, 7),
        'classifier.0.weight': (768,),
        'classifier.2.bias': (1000,),
      },
    ),
    (
      'vit_base_patch16_224',
      'torchvision',
      {
        'conv_proj.weight': (768, 3, 16, 16),
        'class_token': (1, 1, 768),
        'encoder.pos_embedding': (1, 197, 768),
        'encoder.layers.encoder_layer_11.self_attention.in_proj_weight': (
          2304,
          768,
        ),
        'encoder.layers.encoder_layer_0.self_attention.in_proj_bias': (2304,),
        'encoder.layers.encoder_layer_0.mlp.3.weight': (768, 3072),
        'encoder.layers.encoder_layer_0.ln_2.bias': (768,),
        'encoder.ln.weight': (768,),
        'heads.head.bias': (1000,),
      },
    ),
    (
      'swin_tiny_patch4_window7_224',
      '0.6.5',
      {
        'layers.0.downsample.reduction.weight': (192, 384),
        'layers.1.blocks.1.attn.relative_position_bias_table': (169, 6),
        'head.weight': (1000, 768),
      },
    ),
    (
      'swin_tiny_patch4_window7_224',
      'current',
      {
        'layers.1.downsample.reduction.weight': (192, 384),
        'layers.1.blocks.1.attn.qkv.weight': (576, 192),
        'head.fc.weight': (1000, 768),
      },
    ),
    (
      'swin_tiny_patch4_window7_224',
      'torchvision',
      {
        'features.0.2.bias': (96,),
        'features.2.reduction.weight': (192, 384),
        'features.3.1.attn.relative_position_bias_table': (169, 6),
        'features.5.5.mlp.3.weight': (384, 1536),
        'features.6.norm.weight': (1536,),
        'norm.bias': (768,),
        'head.weight': (1000, 768),
      },
    ),
    (
      'resmlp_12_224',
      '0.6.5',
      {
        'blocks.1.norm2.beta': (1, 1, 384),
        'blocks.1.ls2': (384,),
        'blocks.0.linear_tokens.weight': (196, 196),
        'norm.alpha': (1, 1, 384),
      },
    ),
  ],
)
def test_names_and_shapes(name, naming, expected):
  tensors = _tensors(name, naming)
  assert {key: tensors.get(key) for key in expected} == expected


def test_blocks_of_torchvisions_mobilenet_are_counted_through():
  names = _tensors('mobilenetv2_100', 'torchvision')
  blocks = {int(name.split('.')[1]) for name in names if '.conv.' in name}
  assert blocks == set(range(1, 18))
