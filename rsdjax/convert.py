"""Weights from timm and torchvision to our networks and back.

  python -m rsdjax.convert resnet18.pth resnet18.safetensors --model resnet18

reads a state dict of either (.safetensors, or .pth with the `convert` extra)
and writes our variables as .safetensors; `--to 0.6.5`, `--to current` (timm)
and `--to torchvision` go the other way.
"""

import argparse
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common import checkpoints, console, weight_conversion
from common.array_types import Array, Variables
from common.weight_conversion import Rules, Tensors
from rsdjax import models
from rsdjax.tensor_names import NAMINGS

_logger = logging.getLogger(__name__)

# What is stored beside the weights, and we derive: BatchNorm's step counter,
# which nothing reads, and index and mask of Swin's windows.
_DERIVED = ('*.num_batches_tracked', '*.relative_position_index', '*.attn_mask')

# Leaves whose size follows that of the image or the window.
_POSITIONS = ('position_embedding', 'relative_position_table')


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
  """Variables of one of our networks from a state dict.

  Every tensor must be used and every variable found, in its shape, but for
  what the options tell to expect; that is logged.

  Args:
    name: one of `rsdjax.models.names()`.
    state_dict: arrays by name, of timm 0.6.5, of current timm or of
      torchvision, in PyTorch's layout.
    num_classes: number of logits.
    image_size: side of the images; None means the network's own.
    new_classifier: start the classifier anew, whatever the state dict has.
    resize_positions: resize position embeddings and tables that are of
      another image or window size (bicubic, square grids).
    expected: patterns, such as 'head.*', of names that may be missing or
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
  tensors = _without_torchvision_habits(state_dict)
  rules = _recognised_rules(type(model), template, tensors)
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
  """The state dict of one of our networks; inverse of `from_timm`.

  BatchNorm's step counters, which hold no weights, are left out, and so are
  the index and mask of Swin's windows, which follow from the window size.

  Args:
    name: one of `rsdjax.models.names()`.
    variables: variables of that network.
    naming: '0.6.5' or 'current' timm, or 'torchvision', which has no Mixer and
      no ResMLP.

  Returns:
    Arrays by name, in PyTorch's layout.

  Raises:
    ValueError: the network or the naming is unknown, the library has no such
      network, or the variables are of another kind of network.
  """
  if naming not in NAMINGS:
    raise ValueError(f'naming {naming!r} must be one of {", ".join(NAMINGS)}')
  network = type(models.create(name))
  if network not in NAMINGS[naming]:
    raise ValueError(f'{naming} has no network of the family of {name}')
  tensors = weight_conversion.to_torch(variables, NAMINGS[naming][network])
  if naming == 'torchvision':
    for key, x in tensors.items():
      if key.endswith('.layer_scale'):
        tensors[key] = x[:, None, None]
  return tensors


def _without_torchvision_habits(state_dict: Tensors) -> dict[str, np.ndarray]:
  """Layer scales as vectors, and the MLPs of old files by their new names."""
  tensors = {}
  for name, x in state_dict.items():
    if name.endswith('.layer_scale'):
      x = np.reshape(x, -1)
    name = name.replace('.mlp.linear_1.', '.mlp.0.')
    tensors[name.replace('.mlp.linear_2.', '.mlp.3.')] = x
  return tensors


def _recognised_rules(
  network: type[models.Network], template: Variables, tensors: Tensors
) -> Rules:
  """The rules under which most tensors have the name of a variable."""

  def matches(rules: Rules) -> int:
    names = weight_conversion.torch_names(template, rules)
    return len(tensors.keys() & set(names.values()))

  known = [rules[network] for rules in NAMINGS.values() if network in rules]
  return max(known, key=matches)


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
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
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
    help='names that may be missing, unused or of another shape',
  )
  parser.add_argument(
    '--to', choices=NAMINGS, help='from our variables to these names'
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
  console.run(main)
