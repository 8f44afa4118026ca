"""Published weights to our networks and back.

  python -m coic.convert brn.pth brn.safetensors --model brn

reads published weights (.safetensors, .npz, or .pth with the `convert` extra)
and writes our variables as .safetensors; `--to coic` and `--to upstream` go the
other way.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from coic import models
from coic.encoder import Encoder
from coic.tensor_names import brn, dgunet, drsformer, encoder, idt, rcdnet
from common import checkpoints, console, weight_conversion
from common.array_types import Variables
from common.weight_conversion import Rules, Tensors

NAMINGS = ('coic', 'upstream')


# By network, of the program of CoIC.
_RULES: Mapping[str, Rules] = {
  'brn': brn.RULES,
  'rcdnet': rcdnet.RULES,
  'dgunet': dgunet.RULES,
  'idt': idt.RULES,
  'drsformer': drsformer.RULES,
  'encoder': encoder.RULES,
}
# By network, of the program that it comes from, where the names differ.
_UPSTREAM_RULES: Mapping[str, Rules] = {'brn': brn.UPSTREAM_RULES}
# By network, second names of parameters, and their first ones.
_SHARED: Mapping[str, Mapping[str, str]] = {'dgunet': dgunet.SHARED}
# Counters of PyTorch's BatchNorm, which nothing reads.
_DERIVED = ('*.num_batches_tracked',)


def from_torch(
  name: str, state_dict: Tensors, **options: Any
) -> dict[str, Any]:
  """Variables of one of our networks from published weights.

  Every tensor must be used and every variable found, in its shape.

  Args:
    name: one of `coic.models.names()`, or 'encoder'.
    state_dict: arrays by published name, in PyTorch's layout. The network is
      modulated if there are generators among them.
    **options: fields of the network, as in `coic.models.create`, or of the
      encoder.

  Returns:
    Variables as `model.init` has them, as NumPy arrays.

  Raises:
    ValueError: the tensors differ from those that are needed; the message
      lists every one. Or the network is unknown, or does not take the options.
  """
  model: nn.Module
  if name == 'encoder':
    model = Encoder(**options)
  else:
    model = models.create(name, **describe(state_dict, **options))
  size = getattr(model, 'fixed_size', None) or 128
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  template = jax.eval_shape(model.init, jax.random.key(0), image)
  tensors = dict(state_dict)
  for second, first in _SHARED.get(name, {}).items():
    copy = tensors.pop(second, np.zeros(0))
    if not np.array_equal(copy, tensors.get(first, np.zeros(1))):
      raise ValueError(f'{second} must be there, and equal to {first}')
  found, differences = min(
    (
      weight_conversion.from_torch(tensors, template, rules)
      for rules in _fitting_rules(name, template)
    ),
    key=lambda result: len(result[1].missing),
  )
  if differences := differences.without(_DERIVED):
    raise ValueError(f'these tensors are not those of {name}:\n{differences}')
  return weight_conversion.unflatten(found)


def to_torch(
  name: str, variables: Variables, *, naming: str = 'coic'
) -> dict[str, np.ndarray]:
  """Published names for one of our networks; inverse of `from_torch`.

  Args:
    name: one of `coic.models.names()`, or 'encoder'.
    variables: variables of that network.
    naming: 'coic'; or 'upstream' for the names of the program that a network
      comes from, where they differ, which know no generators.

  Returns:
    Arrays by published name, in PyTorch's layout.

  Raises:
    ValueError: the network or the naming is unknown, or the variables are of
      another kind of network.
  """
  tables = {'coic': _RULES, 'upstream': _UPSTREAM_RULES}
  if naming not in tables:
    raise ValueError(f'naming {naming!r} must be one of {NAMINGS}')
  if name not in tables[naming]:
    raise ValueError(
      f'{name!r} has no {naming} names; these have: '
      + ', '.join(tables[naming])
    )
  tensors = weight_conversion.to_torch(variables, tables[naming][name])
  for second, first in _SHARED.get(name, {}).items():
    tensors[second] = tensors[first]
  return tensors


def _fitting_rules(name: str, template: Variables) -> list[Rules]:
  """The rules that name all variables of a network."""
  fitting = [_RULES[name]]
  if 'generator' not in str(jax.tree.structure(template)):
    fitting += [_UPSTREAM_RULES[name]] if name in _UPSTREAM_RULES else []
  return fitting


def describe(state_dict: Tensors, **options: Any) -> dict[str, Any]:
  """Arguments of `models.create`, but the name, for published weights.

  Args:
    state_dict: arrays by published name.
    **options: other fields of the network.
  """
  modulated = any('.g2pa_wgen.' in tensor for tensor in state_dict)
  return {'modulated': modulated, **options}


def main(arguments: Sequence[str] | None = None) -> None:
  """Converts a file; see the module, or `--help`."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('input', metavar='IN')
  parser.add_argument('output', metavar='OUT', help='.safetensors')
  parser.add_argument('--model', required=True, choices=_RULES)
  parser.add_argument(
    '--unused_generators',
    action='store_true',
    help='keep the generators of 1x1 layers, which do nothing',
  )
  parser.add_argument(
    '--to', choices=NAMINGS, help='from our variables to these names'
  )
  options = parser.parse_args(arguments)
  if not options.output.endswith('.safetensors'):
    parser.error(f'OUT {options.output} must end in .safetensors')
  try:
    tensors = weight_conversion.read_tensors(options.input)
    if options.to:
      variables = weight_conversion.unflatten(tensors)
      tensors = to_torch(options.model, variables, naming=options.to)
      weight_conversion.write_tensors(options.output, tensors)
    else:
      network = {}
      if options.unused_generators:
        network['unused_generators'] = True
      variables = from_torch(options.model, tensors, **network)
      description = {'encoder': network}
      if options.model != 'encoder':
        network = describe(tensors, **network)
        description = {'model': {'name': options.model, **network}}
      checkpoints.export_model(options.output, variables, description)
  except (ImportError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  print(f'{options.output}: {len(tensors)} tensors of {options.model}')


if __name__ == '__main__':
  console.run(main)
