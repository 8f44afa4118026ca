"""Puts the benchmark's results into the README.

python -m benchmarks.table          # after `python -m benchmarks.run`
python -m benchmarks.table --check  # exit code 1 if the README is not theirs
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).parents[1]
_RESULTS = _ROOT / 'benchmarks' / 'results'
_README = _ROOT / 'README.md'
_BEGIN = '<!-- benchmarks: made by python -m benchmarks.table -->'
_END = '<!-- /benchmarks -->'
_COLUMNS = (
  'work',
  'processor',
  'ours, ms',
  'PyTorch, ms',
  'ratio',
  'from..to',
  'memory ratio',
  'of peak',
)


def read(folder: pathlib.Path = _RESULTS) -> list[dict[str, Any]]:
  """Rows of all files of a folder, by name.

  Args:
    folder: holds `*.json`, each a list of rows as `benchmarks.run` writes it.
  """
  rows = [
    row
    for path in folder.glob('*.json')
    for row in json.loads(path.read_text())
  ]
  return sorted(rows, key=lambda row: row['name'])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Markdown with one line for each row."""
  lines = ['| ' + ' | '.join(_COLUMNS) + ' |', '|---' * len(_COLUMNS) + '|']
  for row in rows:
    share = row.get('share_of_peak')
    cells = (
      row['name'],
      _short(row.get('processor')),
      _milliseconds(row['ours_ms']),
      _milliseconds(row['peer_ms']),
      f'{row["ratio"]:.2f}',
      f'{row["ratio_min"]:.2f}..{row["ratio_max"]:.2f}',
      f'{row["memory_ratio"]:.2f}',
      '' if share is None else f'{share:.0%}',
    )
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _short(processor: str | None) -> str:
  """Maker and family; older rows have no processor."""
  words = (processor or '').replace('(R)', '').split()
  return ' '.join(words[:2]) or 'not recorded'


def _milliseconds(value: float) -> str:
  return f'{value:,.0f}' if value >= 1000 else f'{value:.4g}'


def with_table(page: str, made: str) -> str:
  """A page with the text between the marks replaced.

  Args:
    page: has the two marks, in this order.
    made: to put there.

  Raises:
    ValueError: the marks are not there.
  """
  before, begin, rest = page.partition(_BEGIN)
  _, end, after = rest.partition(_END)
  if not begin or not end:
    raise ValueError(f'the page has no {_BEGIN} ... {_END}')
  return f'{before}{_BEGIN}\n{made}\n{_END}{after}'


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--check', action='store_true', help='write nothing')
  options = parser.parse_args(arguments)
  page = _README.read_text()
  new = with_table(page, table(read()))
  if not options.check:
    _README.write_text(new)
  elif new != page:
    sys.exit('README.md: the benchmark table is not that of the results')


if __name__ == '__main__':
  main()
