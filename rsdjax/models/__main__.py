"""Prints the networks as a table.

python -m rsdjax.models
"""

import argparse

from rsdjax.models.registry import names


def table() -> str:
  """Networks with their sizes and costs, in Markdown."""
  lines = [
    '| name | image size | classes | parameters | GFLOPs (multiply-adds) |',
    '|---|---|---|---|---|',
  ]
  for name, entry in names().items():
    lines.append(
      f'| `{name}` | {entry.image_size} | {entry.num_classes} '
      f'| {entry.parameters:,} | {entry.flops / 1e9:.2f} |'
    )
  return '\n'.join(lines)


if __name__ == '__main__':
  argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  ).parse_args()
  print(table())
