"""Tables in the docs are what their commands print, and examples run."""

import pathlib
import re

import pytest

from rsdjax.models import __main__ as models_command

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_table_of_networks_is_current():
  text = (ROOT / 'docs' / 'networks.md').read_text()
  assert text.endswith('\n\n' + models_command.table() + '\n')


@pytest.mark.parametrize(
  'page',
  ['README.md', 'docs/distributed.md', 'docs/modulation.md'],
)
def test_examples_run(page):
  blocks = re.findall(r'```python\n(.*?)```', (ROOT / page).read_text(), re.S)
  assert blocks
  for block in blocks:
    exec(compile(block, page, 'exec'), {})
