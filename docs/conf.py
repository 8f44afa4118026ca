"""Sphinx: `make docs` builds the pages, and one for each public module."""

import pathlib
import re
import shutil
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = 'rsdjax'
author = 'The rsdjax authors'
extensions = [
  'myst_parser',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
]

# Pages.
html_theme = 'furo'
html_title = 'rsdjax'
myst_heading_anchors = 3
suppress_warnings = ['myst.xref_missing']  # Links to code; docs_test.py checks.

# API.
PACKAGES = ('rsdjax', 'coic', 'trnr', 'common')
API = ROOT / 'docs' / 'api'
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
# What a package only passes on has its page where it is written.
autodoc_default_options = {
  'members': True,
  'show-inheritance': True,
  'ignore-module-all': True,
}
napoleon_use_ivar = True
default_role = 'code'  # `name` in docstrings.


def write_api_pages() -> None:
  """Writes a page for each public module, as a tree of packages."""
  shutil.rmtree(API, ignore_errors=True)
  API.mkdir()
  for package in PACKAGES:
    for path in [ROOT / package, *(ROOT / package).rglob('*')]:
      name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
      if is_public(path):
        lines = [name, '=' * len(name), '', f'.. automodule:: {name}', '']
        below = sorted(x.stem for x in path.glob('*') if is_public(x))
        if below:
          lines += ['.. toctree::', '   :maxdepth: 1', '']
          lines += [f'   {name}.{x}' for x in below]
        (API / f'{name}.rst').write_text('\n'.join(lines) + '\n')


def is_public(path: pathlib.Path) -> bool:
  """Whether a path is that of a package or a module to be imported."""
  is_module = path.suffix == '.py' or (path / '__init__.py').exists()
  return is_module and not path.stem.startswith('_')


def escape(
  app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
  """Keeps formulas, commands and layouts from being taken for markup."""
  if what == 'module':
    lines[:] = verbatim(lines)
    return
  for i, line in enumerate(lines):
    if line.lstrip().startswith(('>>>', '...')) or re.match(
      r' *\*+\w+: ', line
    ):
      continue
    lines[i] = escaped(line)


def escaped(line: str) -> str:
  """A line whose signs mean themselves, outside of backticks."""
  parts = re.split(r'(`[^`]*`)', line)
  parts[::2] = [re.sub(r'([*|]|_(?!\w))', r'\\\1', x) for x in parts[::2]]
  return ''.join(parts)


def verbatim(lines: list[str]) -> list[str]:
  """Indented paragraphs of a module are commands, tables or trees."""
  made: list[str] = []
  for line in lines:
    if line.startswith(' '):
      if (
        made and not made[-1] and not any(x.startswith(' ') for x in made[-2:])
      ):
        made += ['::', '']
      made.append(line)
    else:
      made.append(escaped(line))
  return made


def shorten(
  app: Any,
  what: str,
  name: str,
  thing: Any,
  options: Any,
  signature: str | None,
  returns: str | None,
) -> tuple[str | None, str | None]:
  """Leaves out what every Linen module has, and where defaults lie."""
  if signature:
    signature = re.sub(r', parent: .*\)$', ')', signature)
    signature = re.sub(r' at 0x[0-9a-f]+', '', signature)
  return signature, returns


def link_readme(app: Any, page: str, source: list[str]) -> None:
  """The README is a page here."""
  source[0] = source[0].replace('](../README.md', '](overview.md')


def setup(app: Any) -> None:
  """Called by Sphinx."""
  write_api_pages()
  # Before napoleon, which makes markup of the sections.
  app.connect('autodoc-process-docstring', escape, priority=100)
  app.connect('autodoc-process-signature', shorten)
  app.connect('source-read', link_readme)
