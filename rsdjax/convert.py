"""Weights from timm to our networks and back.

  python -m rsdjax.convert IN OUT --model NAME

reads a timm state dict (.safetensors, or .pth with the `convert` extra) and
writes our variables as .safetensors; `--to 0.6.5` and `--to current` go the
other way.
"""

import argparse
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common import checkpoints, weight_conversion
from common.array_types import Array, Variables
from common.weight_conversion import Rules, Tensors
from rsdjax import models
from rsdjax.models.convnext import ConvNeXt
from rsdjax.models.mixer import MlpMixer
from rsdjax.models.mobilenet import MobileNetV2
from rsdjax.models.resmlp import ResMlp
from rsdjax.models.resnet import ResNet
from rsdjax.models.swin import SwinTransformer
from rsdjax.models.vit import VisionTransformer

_logger = logging.getLogger(__name__)

NAMINGS = ('0.6.5', 'current')

# What timm stores beside the weights, and we derive: BatchNorm's step counter,
# which nothing reads, and index and mask of Swin's windows.
_DERIVED = ('*.num_batches_tracked', '*.relative_position_index', '*.attn_mask')

# Leaves whose size follows that of the image or the window.
_POSITIONS = ('position_embedding', 'relative_position_table')

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
_RULES: Mapping[type[models.Network], Rules] = {
  ResNet: _RESNET,
  MobileNetV2: _MOBILENET,
  ConvNeXt: _CONVNEXT,
  VisionTransformer: _VIT,
  SwinTransformer: _SWIN,
  MlpMixer: _MIXER,
  ResMlp: _RESMLP,
}
# What differs in current timm.
_CURRENT_RULES: Mapping[type[models.Network], Rules] = {
  SwinTransformer: {
    'stage{s}_merging/norm': 'layers.{s-1}.downsample.norm',
    'stage{s}_merging/reduction': 'layers.{s-1}.downsample.reduction',
    'classifier': 'head.fc',
  },
}


def from_timm(
  name: str,
  state_dict: Tensors,
  *,
  num_classes: int = 1000,
  image_size: int | None = None,
  new_classifier: bool = False,
  resize_positions: bool = False,
  expected: Sequence[str] = (),
  rng: Array | None = None,
  **overrides: Any,
) -> dict[str, Any]:
  """Variables of one of our networks from a timm state dict.

  Every tensor must be used and every variable found, in its shape, but for
  what the options tell to expect; that is logged.

  Args:
    name: one of `rsdjax.models.names()`.
    state_dict: arrays by timm name, of timm 0.6.5 or of current timm (for
      ResNets torchvision has the same), in PyTorch's layout.
    num_classes: number of logits.
    image_size: side of the images; None means the network's own.
    new_classifier: start the classifier anew, whatever the state dict has.
    resize_positions: resize position embeddings and tables that are of
      another image or window size (bicubic, square grids).
    expected: patterns, such as 'head.*', of timm names that may be missing or
      of another shape, and then start anew, or may be unused.
    rng: key for what starts anew; None means `jax.random.key(0)`.
    **overrides: other fields of the network, as in `rsdjax.models.create`.

  Returns:
    Variables as `model.init` has them, `params` and for networks with
    BatchNorm `batch_stats`, as NumPy arrays.

  Raises:
    ValueError: the tensors differ from those that are needed; the message
      lists every one. Or the network is unknown, or does not take the options.
  """
  model = models.create(
    name, num_classes=num_classes, image_size=image_size, **overrides
  )
  rng = jax.random.key(0) if rng is None else rng
  side = image_size or models.names()[name].image_size
  images = jnp.zeros((1, side, side, 3))
  template = jax.eval_shape(model.init, rng, images)
  rules = _recognised_rules(type(model), template, state_dict)
  tensors = dict(state_dict)
  if resize_positions:
    tensors |= _resized_positions(model, tensors, template, rules)
  if new_classifier:
    classifier = rules['classifier']
    expected = (*expected, f'{classifier}.*')
    for leaf in ('weight', 'bias'):
      tensors.pop(f'{classifier}.{leaf}', None)
  found, differences = weight_conversion.from_torch(tensors, template, rules)
  differences = differences.without(_DERIVED)
  if unexpected := differences.without(expected):
    raise ValueError(f'these tensors are not those of {name}:\n{unexpected}')
  if differences:
    _logger.warning('%s, as expected:\n%s', name, differences)
  new = weight_conversion.flatten(template).keys() - found.keys()
  return weight_conversion.unflatten(found | _initial(model, rng, images, new))


def to_timm(
  name: str, variables: Variables, *, naming: str = '0.6.5'
) -> dict[str, np.ndarray]:
  """The timm state dict of one of our networks; inverse of `from_timm`.

  BatchNorm's step counters, which hold no weights, are left out, and so are
  the index and mask of Swin's windows, which timm builds itself.

  Args:
    name: one of `rsdjax.models.names()`.
    variables: variables of that network.
    naming: '0.6.5' or 'current'.

  Returns:
    Arrays by timm name, in PyTorch's layout.

  Raises:
    ValueError: the network or the naming is unknown, or the variables are of
      another kind of network.
  """
  rules = _rules(type(models.create(name)), naming)
  return weight_conversion.to_torch(variables, rules)


def _rules(network: type[models.Network], naming: str) -> Rules:
  if naming not in NAMINGS:
    raise ValueError(f'naming {naming!r} must be one of {NAMINGS}')
  changes = _CURRENT_RULES.get(network, {}) if naming == 'current' else {}
  return {**_RULES[network], **changes}


def _recognised_rules(
  network: type[models.Network], template: Variables, tensors: Tensors
) -> Rules:
  """The rules under which most tensors have the name of a variable."""

  def matches(rules: Rules) -> int:
    names = weight_conversion.torch_names(template, rules)
    return len(tensors.keys() & set(names.values()))

  return max((_rules(network, naming) for naming in NAMINGS), key=matches)


def _resized_positions(
  model: models.Network, tensors: Tensors, template: Variables, rules: Rules
) -> dict[str, np.ndarray]:
  """Position embeddings and tables of another size, resized to that needed."""
  resized = {}
  names = weight_conversion.torch_names(template, rules)
  for path, needed in weight_conversion.flatten(template).items():
    name = names[path]
    if path.rpartition('/')[2] not in _POSITIONS or name not in tensors:
      continue
    found = np.asarray(tensors[name])
    rows = found.reshape(-1, found.shape[-1])
    prefix, grid = np.split(rows, [model.prefix_tokens])
    side = math.isqrt(len(grid))
    new_side = math.isqrt(needed.shape[-2] - len(prefix))
    width = needed.shape[-1]
    if found.shape == needed.shape or grid.shape != (side**2, width):
      continue  # Nothing to do, or an error that `from_torch` reports.
    grid = jax.image.resize(
      grid.reshape(side, side, width), (new_side, new_side, width), 'bicubic'
    )
    rows = np.concatenate([prefix, np.reshape(grid, (-1, width))])
    resized[name] = rows.reshape(*found.shape[:-2], *rows.shape)
    _logger.warning('%s: %s becomes %s', name, found.shape, resized[name].shape)
  return resized


def _initial(
  model: models.Network, rng: Array, images: Array, paths: Iterable[str]
) -> dict[str, np.ndarray]:
  """What `model.init` gives for these paths, and no more work than that."""

  def run(rng: Array) -> dict[str, Array]:
    leaves = weight_conversion.flatten(model.init(rng, images))
    return {path: leaves[path] for path in paths}

  return jax.device_get(jax.jit(run)(rng)) if paths else {}


def main(arguments: Sequence[str] | None = None) -> None:
  """Converts a file; see the module, or `--help`."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('input', metavar='IN')
  parser.add_argument('output', metavar='OUT', help='.safetensors')
  parser.add_argument('--model', required=True, choices=models.names())
  parser.add_argument('--num_classes', type=int, default=1000)
  parser.add_argument('--image_size', type=int)
  parser.add_argument(
    '--new_classifier', action='store_true', help='start the classifier anew'
  )
  parser.add_argument(
    '--resize_positions',
    action='store_true',
    help='resize position embeddings of another image size',
  )
  parser.add_argument(
    '--expected',
    action='append',
    default=[],
    metavar='PATTERN',
    help='timm names that may be missing, unused or of another shape',
  )
  parser.add_argument(
    '--to', choices=NAMINGS, help='from our variables to these timm names'
  )
  options = vars(parser.parse_args(arguments))
  source, target = options.pop('input'), options.pop('output')
  if not target.endswith('.safetensors'):
    parser.error(f'OUT {target} must end in .safetensors')
  name, naming = options.pop('model'), options.pop('to')
  try:
    tensors = weight_conversion.read_tensors(source)
    if naming:
      tensors = to_timm(
        name, weight_conversion.unflatten(tensors), naming=naming
      )
      weight_conversion.write_tensors(target, tensors)
    else:
      variables = from_timm(name, tensors, **options)
      checkpoints.export_model(target, variables, _description(name, options))
  except (ImportError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  print(f'{target}: {len(tensors)} tensors of {name}')


def _description(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """What a run needs to take the network for a teacher."""
  model = {
    'name': name,
    'num_classes': options['num_classes'],
    'image_size': options['image_size'] or models.names()[name].image_size,
  }
  return {'model': model, 'scores': {}}


if __name__ == '__main__':
  main()
