"""Who may import whom, read from the import statements."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
METHODS = ('rsdjax', 'coic', 'trnr')
PACKAGES = tuple(p for p in (*METHODS, 'common') if (ROOT / p).is_dir())
HEAVY = ('tensorflow', 'torch', 'timm')
# Of each package: modules that train, load data or parse flags.
TRAINING = (
  'train',
  'main',
  'evaluate',
  'experiment',
  'compare',
  'analysis',
  'distillers',
  'fit_embedding',
  'input_pipeline',
  'patches',
  'sources',
  'tasks',
)
COMMON_TRAINING = (
  'common.data',
  'common.checkpoints',
  'common.training_loop',
  'common.train_state',
  'common.metric_writers',
  'common.configuration',
)


def _imports(path, *, top_level_only=False):
  tree = ast.parse(path.read_text())
  nodes = tree.body if top_level_only else list(ast.walk(tree))
  for node in nodes:
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      yield node.module
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _files(*parts):
  return sorted(ROOT.joinpath(*parts).rglob('*.py'))


def _is_below(name, packages):
  return any(name == p or name.startswith(p + '.') for p in packages)


@pytest.mark.parametrize('package', PACKAGES)
def test_packages_keep_apart(package):
  forbidden = [m for m in METHODS if m != package]
  for path in _files(package):
    for name in _imports(path):
      assert not _is_below(name, forbidden), f'{path} imports {name}'


@pytest.mark.parametrize('package', PACKAGES)
def test_models_losses_and_layers_know_nothing_of_training(package):
  forbidden = [f'{package}.{m}' for m in TRAINING]
  forbidden += [*COMMON_TRAINING, 'absl.flags', 'absl.app']
  for part in ('models', 'losses', 'layers', 'methods'):
    for path in _files(package, part):
      for name in _imports(path):
        assert not _is_below(name, forbidden), f'{path} imports {name}'


@pytest.mark.parametrize('package', PACKAGES)
def test_heavy_frameworks_stay_inside_functions(package):
  for path in _files(package):
    for name in _imports(path, top_level_only=True):
      assert not _is_below(name, HEAVY), f'{path} imports {name} at the top'


def test_configs_import_only_ml_collections():
  for path in _files('configs'):
    assert set(_imports(path)) <= {'ml_collections'}, path


def test_importing_touches_no_device_and_no_heavy_framework():
  modules = [
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for package in PACKAGES
    for path in _files(package)
    if path.name not in ('__init__.py', '__main__.py')
  ]
  program = f"""
import importlib, sys
for name in {modules!r}:
  importlib.import_module(name)
assert not {{'tensorflow', 'torch', 'timm'}} & set(sys.modules)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
  subprocess.run([sys.executable, '-c', program], check=True, cwd=ROOT)
