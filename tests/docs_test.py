"""Tables in the docs are what their commands print."""

import pathlib

from rsdjax.models import __main__ as models_command

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_table_of_networks_is_current():
  text = (ROOT / 'docs' / 'networks.md').read_text()
  assert text.endswith('\n\n' + models_command.table() + '\n')
