"""Every public name has a docstring, and examples in docstrings run."""

import ast
import doctest
import importlib
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ('rsdjax', 'coic', 'trnr', 'common')
Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_modules() -> list[pathlib.Path]:
  return sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob('*.py')
    if path.stem == '__init__' or not path.stem.startswith('_')
  )


def name_of(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts).removesuffix('.__init__')


def undocumented(tree: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
  """Public names without a docstring; those inside functions are not public."""
  if not ast.get_docstring(tree):
    yield name
  for node in tree.body:
    if not isinstance(node, Named) or node.name.startswith('_'):
      continue
    inner = f'{name}.{node.name}'
    if isinstance(node, ast.ClassDef):
      yield from undocumented(node, inner)
    elif not ast.get_docstring(node) and not is_variant(node):
      yield inner


def is_variant(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
  """Whether it is a signature or a setter of what has its docstring before."""
  names = [ast.unparse(x).split('.')[-1] for x in node.decorator_list]
  return bool({'overload', 'setter'} & {*names})


def test_public_names_have_docstrings():
  found = [
    name
    for path in public_modules()
    for name in undocumented(ast.parse(path.read_text()), name_of(path))
  ]
  assert not found


def test_missing_docstrings_are_found():
  tree = ast.parse(
    '"""A module."""\n'
    'def _private(): pass\n'
    'def bare(): pass\n'
    'class Documented:\n'
    '  """A class."""\n'
    '  def method(self): pass\n'
    '  def __len__(self): return 0\n'
  )
  assert [*undocumented(tree, 'm')] == ['m.bare', 'm.Documented.method']
  assert [*undocumented(ast.parse('x = 1'), 'm')] == ['m']


MODULES_WITH_EXAMPLES = [
  name_of(path) for path in public_modules() if '>>> ' in path.read_text()
]


@pytest.mark.parametrize('name', MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings_run(name):
  module = importlib.import_module(name)
  finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
  for test in finder.find(module, name):
    runner.run(test)
  assert runner.tries and not runner.failures
