"""Modulated layers in the program of CoIC."""

from common.weight_conversion import Rules


def modulated_layers(names: Rules) -> dict[str, str]:
  """Rules for modulated layers, and their generators, from their names.

  Args:
    names: published name of the layer, by the path of ours.
  """
  rules = {}
  for ours, theirs in names.items():
    rules[ours] = f'{theirs}.base_conv.conv'
    for i, published in enumerate((0, 2, 4), 1):
      rules[f'{ours}/generator/linear{i}'] = f'{theirs}.g2pa_wgen.{published}'
  return rules
