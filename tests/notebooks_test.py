"""Notebooks are committed clean. `make notebooks` runs them."""

import ast
import importlib
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
PACKAGES = ('rsdjax', 'coic', 'trnr', 'common')

each = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
  return json.loads(path.read_text(encoding='utf-8'))


def text(cell):
  return ''.join(cell['source'])


def code_of(path):
  """Python of each code cell, by its id; lines of magic do nothing."""
  return {
    cell['id']: re.sub(r'^( *)%.*$', r'\1pass', text(cell), flags=re.M)
    for cell in read(path)['cells']
    if cell['cell_type'] == 'code'
  }


def test_all_are_there():
  assert [path.stem for path in NOTEBOOKS] == [
    'distil_in_your_own_loop',
    'few_shot_patches',
    'quickstart',
    'read_a_run',
    'restore_your_photos',
  ]


@each
def test_is_clean(path):
  notebook = read(path)
  assert (notebook['nbformat'], notebook['nbformat_minor']) == (4, 5)
  assert notebook['metadata']['kernelspec']['name'] == 'python3'
  ids = [cell['id'] for cell in notebook['cells']]
  assert len(set(ids)) == len(ids)
  for cell in notebook['cells']:
    assert re.fullmatch(r'[\w-]{1,64}', cell['id'])
    assert cell['metadata'] == {}
    assert cell['cell_type'] in ('code', 'markdown')
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == []
      assert cell['execution_count'] is None
    # Paths of some machine.
    assert not re.search(r'/(home|root|tmp|Users|work|content)/', text(cell))


@each
def test_begins_and_ends_as_all_do(path):
  first, *_, last = read(path)['cells']
  assert text(first).startswith('# ')
  assert '\n## What you will see\n' in text(first)
  assert text(last).startswith('## What to try\n')
  install = next(iter(code_of(path).values()))
  assert "find_spec('rsdjax') is None" in install
  assert "os.environ.get('RSDJAX_SMOKE')" in install


@each
def test_code_compiles_and_imports_what_is_there(path):
  for name, source in code_of(path).items():
    nodes = [*ast.walk(ast.parse(source, f'{path.stem}:{name}'))]
    modules = [
      (alias.name, None)
      for node in nodes
      if isinstance(node, ast.Import)
      for alias in node.names
    ]
    modules += [
      (node.module, alias.name)
      for node in nodes
      if isinstance(node, ast.ImportFrom)
      for alias in node.names
    ]
    for module, member in modules:
      if module.split('.')[0] in PACKAGES:
        found = importlib.import_module(module)
        if member is not None and not hasattr(found, member):
          importlib.import_module(f'{module}.{member}')
