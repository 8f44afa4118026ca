"""Every command parses, its config resolves, and rows are what it gives."""

import ast
import pathlib
import re

import pytest

import coic.analysis
import coic.compare
import coic.evaluate
import coic.fit_embedding
import coic.models
import trnr.compare
import trnr.evaluate
import trnr.models
from common import compilation_cache, configuration
from results import adapt_to_pair, distil_derainer, modulated_tasks
from results.experiments import EXPERIMENTS
from rsdjax import distillers, models

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = [(e, c) for e in EXPERIMENTS for c in e.commands]
BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}
PLACES = dict.fromkeys(('data', 'weights', 'folder', 'runs'), 'absent')
FLAGS = {
  'rsdjax.compare': {'config', 'workdir', 'methods', 'seeds'},
  'rsdjax.analysis': {'config', 'checkpoint', 'output'},
  'trnr.compare': {'config', 'workdir', 'samplings', 'seeds', 'num_images'},
  'coic.compare': {'config', 'workdir', 'methods', 'seeds'},
  'results.distil_derainer': {
    *('config', 'workdir', 'teacher', 'methods', 'seeds'),
  },
  'results.modulated_tasks': {'config', 'workdir', 'methods', 'seeds'},
}
METHODS = {
  'coic.compare': coic.compare.METHODS,
  'results.distil_derainer': distil_derainer.METHODS,
  'results.modulated_tasks': modulated_tasks.METHODS,
}
PARSERS = {
  'trnr.evaluate': trnr.evaluate,
  'coic.evaluate': coic.evaluate,
  'coic.analysis': coic.analysis,
  'coic.fit_embedding': coic.fit_embedding,
  'results.adapt_to_pair': adapt_to_pair,
}
every_command = pytest.mark.parametrize(
  ('experiment', 'command'),
  COMMANDS,
  ids=[f'{e.name}/{c.label}' for e, c in COMMANDS],
)


def flags_of(command):
  """Values of absl flags, and of the fields of the config, by name."""
  words, flags, fields = [*command.arguments[2:]], {}, {}
  while words:
    name, equals, value = words.pop(0).removeprefix('--').partition('=')
    value = value if equals else words.pop(0)
    if name.startswith('config.'):
      fields[name.removeprefix('config.')] = value
    else:
      flags[name] = value
  return flags, fields


def load(command):
  flags, fields = flags_of(command)
  config = configuration.load(f'{ROOT}/{flags["config"]}')
  for name, value in fields.items():
    configuration.require_field(config, name)
    old = config
    for part in name.split('.'):
      old = old[part]
    if not isinstance(old, str):
      value = type(old)(ast.literal_eval(value))
    config.update_from_flattened_dict({name: value})
  return config


def keys_of(command):
  """LABEL/RUN of what a comparison trains, without seeds."""
  module, (flags, _) = command.arguments[1], flags_of(command)
  if module == 'trnr.compare':
    runs = [
      f'{sampling}_{count}'
      for sampling in flags['samplings'].split(',')
      for count in flags.get('num_images', '0').split(',')
    ]
  else:
    runs = flags['methods'].split(',')
  if module == 'rsdjax.compare' and not load(command).teacher.checkpoint:
    runs.append('teacher')
  return {f'{command.label}/{run}' for run in runs}


def test_names_are_those_of_folders():
  assert len(BY_NAME) == len(EXPERIMENTS)
  for experiment in EXPERIMENTS:
    labels = [command.label for command in experiment.commands]
    assert len({*labels}) == len(labels)
    for name in (experiment.name, *labels):
      assert re.fullmatch(r'[a-z0-9_.]+', name), name


def test_what_a_command_reads_comes_before_it():
  before = []
  for experiment, command in COMMANDS:
    assert {*command.needs} <= {*before}, command.line
    before.append((experiment.name, command.label))


@every_command
def test_command_parses(experiment, command, monkeypatch, capsys):
  del experiment
  assert command.arguments[0] == '-m'
  module = command.arguments[1]
  if module in FLAGS:
    flags, _ = flags_of(command)
    assert {*flags} <= FLAGS[module]
    assert load(command).is_locked
    return
  monkeypatch.setattr(compilation_cache, 'enable', lambda: None)
  with pytest.raises(SystemExit) as stopped:
    PARSERS[module].main(command.words(PLACES)[2:])
  # Its arguments are right, and its weights are not there.
  assert stopped.value.code == 1
  assert 'are not there' in capsys.readouterr().err


@every_command
def test_config_is_of_networks_and_methods_that_there_are(experiment, command):
  module = command.arguments[1]
  if module not in FLAGS:
    return
  flags, _ = flags_of(command)
  config = load(command)
  names = {metric.name for metric in experiment.metrics}
  if module.startswith('rsdjax'):
    network = models.create(**config.model, num_classes=100, image_size=32)
    for method in flags.get('methods', config.distiller.name).split(','):
      distillers.create(**config.distiller.to_dict() | {'name': method})
    if config.distiller.rsd.get('decoupler') == 'none':
      teacher = models.create(**config.teacher.model, num_classes=100)
      widths = {
        models.feature_shapes(x, 32)['embedding'] for x in (network, teacher)
      }
      assert len(widths) == 1
    assert names <= {'test_top1', 'test_top5'}
    return
  if module == 'trnr.compare':
    assert {*flags['samplings'].split(',')} <= {'rcs', 'rps', 'rbs1', 'rbs2'}
  else:
    assert {*flags['methods'].split(',')} <= {*METHODS[module]}
  options = config.model.to_dict()
  if module == 'coic.compare':
    del options['weights']
    coic.models.create(**options)
    prefixes = [f'{name}_' for name in (*config.data.test_sets, 'mean')]
  else:
    trnr.models.create(**options)
    prefixes = [f'sigma{sigma:g}_' for sigma in config.eval.sigmas] or ['']
  assert names <= {
    f'{prefix}{protocol}_{measure}'
    for prefix in prefixes
    for protocol in config.eval.protocols
    for measure in ('psnr', 'ssim')
  }


def test_quickstart_is_that_of_make():
  lines = (ROOT / 'Makefile').read_text().replace('\\\n', ' ').splitlines()
  made = [line.split() for line in lines if '.compare --config' in line]
  ours = [c.arguments for e, c in COMMANDS if e.name.startswith('quickstart')]
  assert len(made) == len(ours)
  for words, arguments in zip(made, ours, strict=True):
    config, *lists = (
      words[i + 1]
      for i in range(len(words))
      if words[i] in ('--config', '--methods', '--samplings', '--seeds')
    )
    assert words[2] == arguments[1]
    assert config in arguments
    assert {x.partition('=')[2] for x in arguments[-2:]} == {*lists}


@pytest.mark.parametrize('experiment', EXPERIMENTS, ids=lambda e: e.name)
def test_rows_are_what_commands_give(experiment):
  shown = {(row.of or experiment.name, row.key) for row in experiment.rows}
  for name, key in shown:
    command = BY_NAME[name].command(key.split('/')[0])
    assert key in keys_of(command), key
  trained = {
    key
    for command in experiment.commands
    if command.arguments[1] in {'rsdjax.compare', 'trnr.compare', *METHODS}
    for key in keys_of(command)
  }
  assert trained <= {key for name, key in shown if name == experiment.name}
  labels = {command.label for command in experiment.commands}
  assert {row.key.split('/')[0] for row in experiment.evaluations} <= labels
  assert {row.path[0] for row in experiment.values} <= labels
  assert experiment.commands or experiment.not_run


def test_every_experiment_is_in_the_docs():
  page = (ROOT / 'docs' / 'results.md').read_text()
  for experiment in EXPERIMENTS:
    assert f'## {experiment.title}\n' in page
    assert f'<!-- results: {experiment.name} -->' in page


def test_results_are_small_and_of_no_machine():
  paths = [path for path in (ROOT / 'results').rglob('*') if path.is_file()]
  files = [path for path in paths if '__pycache__' not in path.parts]
  assert sum(path.stat().st_size for path in files) < 1e6
  for path in files:
    if path.suffix == '.json':
      assert '"/' not in path.read_text(), path
