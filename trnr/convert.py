"""Published weights to our networks and back.

  python -m trnr.convert MSResNet.pth msresnet.safetensors

reads published weights (.safetensors, .npz, or .pth with the `convert` extra)
and writes our variables as .safetensors; `--to_torch` goes the other way.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common import checkpoints, console, weight_conversion
from common.array_types import Variables
from common.weight_conversion import Rules, Tensors
from trnr import models

_RATES = 'update_lr'
_PREFIX = 'net.layer_dict.'
_WEIGHTS = ('params', 'batch_stats')
# In the order of a module's tensors in the published files.
_LEAVES = {
  'kernel': 'params',
  'mean': 'batch_stats',
  'var': 'batch_stats',
  'bias': 'params',
  'scale': 'params',
  'slope': 'params',
}


def _norm(ours: str, theirs: str) -> dict[str, str]:
  return {
    f'{ours}/mean': f'{theirs}.r_mean',
    f'{ours}/var': f'{theirs}.r_var',
    ours: theirs,
  }


def _gate(ours: str, theirs: str) -> dict[str, str]:
  return {
    f'{ours}/squeeze/kernel': f'{theirs}.w1',
    f'{ours}/squeeze/bias': f'{theirs}.b1',
    f'{ours}/excite/kernel': f'{theirs}.w2',
    f'{ours}/excite/bias': f'{theirs}.b2',
  }


def _unit(ours: str, theirs: str) -> dict[str, str]:
  return {
    f'{ours}/conv': f'{theirs}.conv',
    **_norm(f'{ours}/norm', f'{theirs}.bn'),
    **_gate(f'{ours}/attention', f'{theirs}.se'),
  }


def _block(theirs: str) -> dict[str, str]:
  """The residual block, whichever of the two it is."""
  ours = 'stage{s}/residual'
  return {
    **_unit(f'{ours}/unit{{u}}', f'{theirs}.cbr{{u}}'),
    f'{ours}/unit{{u}}_activation/slope': f'{theirs}.cbr{{u}}.prelu.weight',
    **_unit(f'{ours}/branch{{u}}', f'{theirs}.cb{{u}}'),
    f'{ours}/last/conv': f'{theirs}.trans',
    **_norm(f'{ours}/last/norm', f'{theirs}.bn'),
    **_gate(f'{ours}/last/attention', f'{theirs}.se'),
  }


_ENDS = {
  'head': 'head',
  'transition/conv': 'conv_tail',
  **_norm('transition/norm', 'bn_tail'),
  **_gate('transition/attention', 'se_tail'),
  'tail': 'tail',
}
_RULES: dict[str, Rules] = {
  'msresnet': {
    **_ENDS,
    'stage{s}/multi_scale/first_dilation{d}': (
      'body{s}.msb.layer_dict.conv-s0-d{d}'
    ),
    'stage{s}/multi_scale/second_dilation{d}': (
      'body{s}.msb.layer_dict.conv-s1-d{d}'
    ),
    **_norm('stage{s}/multi_scale/norm', 'body{s}.msb.layer_dict.bn'),
    **_gate('stage{s}/multi_scale/attention', 'body{s}.msb.layer_dict.se'),
    **_block('body{s}.rb.layer_dict'),
  },
  'dnnet': {**_ENDS, **_block('body{s}.layer_dict')},
  'ddn': {
    'unit{u}/conv': 'layer_{u}.conv',
    **_norm('unit{u}/norm', 'layer_{u}.bn'),
  },
  'adn': {
    'head': 'conv0',
    'stage{s}/first/kernel': 'SDB{s}.weight_1',
    'stage{s}/second/kernel': 'SDB{s}.weight_2',
    'stage{s}/first/bias': 'SDB{s}.bias_1',
    'stage{s}/second/bias': 'SDB{s}.bias_2',
    'stage{s}/selection': 'DSB{s}',
    **_gate('stage{s}/attention', 'FSB{s}'),
    'transition': 'conv_tran',
    'tail': 'conv1',
  },
}


def describe(state_dict: Tensors) -> dict[str, Any]:
  """Which network published weights belong to.

  Args:
    state_dict: arrays by published name.

  Returns:
    Arguments of `trnr.models.create`.

  Raises:
    ValueError: the names are of none of our networks.
  """
  shapes = {_short(name): x.shape for name, x in state_dict.items()}

  def count(pattern: str) -> int:
    found = (re.match(pattern, name) for name in shapes)
    return max((int(match[1]) for match in found if match), default=0)

  if 'layer_1.conv.weight' in shapes:
    features, channels = shapes['layer_1.conv.weight'][:2]
    return {'name': 'ddn', 'features': features, 'channels': channels}
  if 'conv0.weight' in shapes:
    features, channels = shapes['conv0.weight'][:2]
    stages = count(r'SDB(\d+)\.')
    return {
      'name': 'adn',
      'features': features,
      'channels': channels,
      'stages': stages,
    }
  if not {'head.weight', 'tail.weight'} <= shapes.keys():
    raise ValueError(
      f'no network of {models.names()} has tensors named like '
      f'{sorted(state_dict)[:3]}'
    )
  features, inputs = shapes['head.weight'][:2]
  channels = shapes['tail.weight'][0]
  description = {
    'name': 'dnnet',
    'features': features,
    'channels': channels,
    'stages': count(r'body(\d+)\.'),
    'attention': 'se_tail.w1' in shapes,
    'noise_map': inputs > channels,
  }
  first = shapes.get('body1.msb.layer_dict.conv-s0-d1.weight')
  if first is None:
    return description
  concatenating = 'body1.rb.layer_dict.cb1.conv.weight' in shapes
  return description | {
    'name': 'msresnet',
    'block': 'concatenating' if concatenating else 'residual',
    'aggregate_input': first[1] > features,
  }


def from_torch(state_dict: Tensors) -> dict[str, Any]:
  """Our variables from published weights, of whichever network they are.

  Args:
    state_dict: arrays by published name ('net.layer_dict.head.weight', with or
      without the first parts), in PyTorch's layout. `update_lr`, if there, is
      the inner learning rate of each tensor in the published order.

  Returns:
    `params`, `batch_stats`, and where there are rates
    `inner_learning_rates`, scalars in a tree like `params`; NumPy arrays.

  Raises:
    ValueError: the tensors are of no network of ours, or one is missing,
      surplus or of another shape; the message lists every one.
  """
  description = describe(state_dict)
  rules = _RULES[description['name']]
  shapes = _shapes(models.create(**description))
  order = _parameters(shapes)
  tensors = {
    _short(name): x for name, x in state_dict.items() if name != _RATES
  }
  found, differences = weight_conversion.from_torch(
    tensors, weight_conversion.unflatten(shapes), rules
  )
  if differences:
    raise ValueError(
      f'these tensors are not those of a network:\n{differences}'
    )
  variables = weight_conversion.unflatten(found)
  if _RATES in state_dict:
    rates = np.asarray(state_dict[_RATES])
    if rates.shape != (len(order),):
      raise ValueError(
        f'{_RATES} has shape {list(rates.shape)}, needed [{len(order)}]'
      )
    variables['inner_learning_rates'] = weight_conversion.unflatten(
      dict(zip(order, rates, strict=True))
    )
  return variables


def to_torch(variables: Variables) -> dict[str, np.ndarray]:
  """Published names and layout of our variables; inverse of `from_torch`.

  Args:
    variables: of a network of this package, with or without
      `inner_learning_rates`.

  Returns:
    Arrays by published name, in the published order.

  Raises:
    ValueError: the variables are of no network of ours.
  """
  weights = {k: variables[k] for k in _WEIGHTS if k in variables}
  rules = _RULES[_kind(weights['params'])]
  tensors = weight_conversion.to_torch(jax.device_get(weights), rules)
  names = weight_conversion.torch_names(weights, rules)
  shapes = _shapes(models.create(**describe(tensors)))
  published = {}
  if 'inner_learning_rates' in variables:
    rates = weight_conversion.flatten(variables['inner_learning_rates'])
    published[_RATES] = np.stack(
      [np.asarray(rates[path]) for path in _parameters(shapes)]
    )
  for path in shapes:
    published[_PREFIX + names[path]] = tensors[names[path]]
  return published


def _short(name: str) -> str:
  """A name without the wrappers that the published files begin with."""
  return name.removeprefix('net.').removeprefix('layer_dict.')


def _kind(params: Variables) -> str:
  """Name of the network that parameters belong to."""
  if 'unit1' in params:
    return 'ddn'
  stage = params.get('stage1', {})
  if 'selection' in stage:
    return 'adn'
  if 'residual' not in stage:
    raise ValueError(
      f'parameters {sorted(params)} are of no network of {models.names()}'
    )
  return 'msresnet' if 'multi_scale' in stage else 'dnnet'


def _parameters(shapes: Mapping[str, Any]) -> list[str]:
  """Paths of the parameters, in the order of `shapes`."""
  paths = (path.partition('/') for path in shapes)
  return [path for collection, _, path in paths if collection == 'params']


def _shapes(network: models.RestorationNetwork) -> dict[str, Any]:
  """Variables by path in the published order, shapes only.

  Layers come in the order of their first call; in a normalisation, running
  statistics come before shift and shift before scale.
  """
  image = jnp.zeros((1, 31, 31, network.channels))
  options: dict[str, Any] = {}
  if network.needs_sigma:
    options['sigma'] = jnp.zeros((1,))
  created: dict[str, Any] = {}

  def record(rng: jax.Array) -> None:
    variables = network.init(rng, image, **options)
    created.update(weight_conversion.flatten(variables))

  jax.eval_shape(record, jax.random.key(0))
  modules = dict.fromkeys(
    path.partition('/')[2].rpartition('/')[0]
    for path in created
    if path.startswith('params/')
  )
  paths = (
    f'{collection}/{module}/{leaf}'
    for module in modules
    for leaf, collection in _LEAVES.items()
  )
  return {path: created[path] for path in paths if path in created}


def main(arguments: Sequence[str] | None = None) -> None:
  """Converts a file; see the module, or `--help`."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('input', metavar='IN')
  parser.add_argument('output', metavar='OUT', help='.safetensors')
  parser.add_argument(
    '--to_torch', action='store_true', help='from our variables'
  )
  options = parser.parse_args(arguments)
  if not options.output.endswith('.safetensors'):
    parser.error(f'OUT {options.output} must end in .safetensors')
  try:
    if options.to_torch:
      variables, description = checkpoints.load_model(options.input)
      tensors = to_torch(variables)
      weight_conversion.write_tensors(options.output, tensors)
    else:
      tensors = weight_conversion.read_tensors(options.input)
      description = {'model': describe(tensors)}
      checkpoints.export_model(options.output, from_torch(tensors), description)
  except (ImportError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  print(
    f'{options.output}: {len(tensors)} tensors of '
    f'{description["model"]["name"]}'
  )


if __name__ == '__main__':
  console.run(main)
