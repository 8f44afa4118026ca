"""What the runs of an experiment gave, as one small file."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.metric_writers import METRICS_FILE
from common.report import contents
from common.whole_files import written_whole
from results import progress
from results.experiment import Command, Experiment

RESULTS = pathlib.Path(__file__).parent
SCORES_FILE = 'scores.json'
ANALYSIS_FILE = 'analysis.json'


def collect(
  experiment: Experiment,
  folder: pathlib.Path,
  places: Mapping[str, str],
  *,
  earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Reads what the finished commands of an experiment have written.

  Args:
    experiment: what was run.
    folder: of its runs; each command has a folder of its label in it.
    places: folders by placeholder, which take their place again.
    earlier: result of this experiment. Of a command that has no runs here, as
      after a change of machine, its part is kept.

  Returns:
    `title`, `question`, `protocol`; `commands` by label, each with its `line`,
    `seconds` and `environments`; `config`, by dotted name, of all runs; `runs`,
    see `_run`; `images`, by row and protocol rows of name, PSNR, SSIM, and both
    of the degraded picture; `analysis` by label. Numbers have eight digits.

  Raises:
    ValueError: a file is damaged, a run has no such metric, or nothing has been
      run.
  """
  commands: dict[str, Any] = {}
  runs: list[dict[str, Any]] = []  # Each with its whole config.
  images: dict[str, Any] = {}
  analysis: dict[str, Any] = {}
  metrics = [metric.name for metric in experiment.metrics]
  for command in experiment.commands:
    state = progress.read(folder, command)
    if not state.done:
      kept = _part(earlier, command)
      commands |= kept['commands']
      runs += kept['runs']
      images |= kept['images']
      analysis |= kept['analysis']
      continue
    commands[command.label] = {
      'line': command.line,
      'seconds': round(state.seconds, 1),
      'environments': state.environments,
    }
    own = folder / command.label
    runs += [
      _run(run, metrics, _portable(run.config, places))
      for run in _runs(own, command)
    ]
    if (own / SCORES_FILE).exists():
      images |= _images(own / SCORES_FILE, command)
    if (own / ANALYSIS_FILE).exists():
      analysis[command.label] = json.loads((own / ANALYSIS_FILE).read_text())
  if not commands:
    raise ValueError(f'{experiment.name}: no command has been run to its end')
  configs = [run['config'] for run in runs]
  shared = {
    name: value
    for name, value in (configs[0] if configs else {}).items()
    if all(name in x and x[name] == value for x in configs)
  }
  for run in runs:
    run['config'] = {
      name: x for name, x in run['config'].items() if name not in shared
    }
  found: dict[str, Any] = {
    'title': experiment.title,
    'question': experiment.question,
    'protocol': experiment.protocol,
    'commands': commands,
    'config': shared,
    'runs': runs,
    'images': images,
    'analysis': analysis,
  }
  return _rounded(found)


def write(result: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes a result whole, with a list of numbers on one line.

  Args:
    result: from `collect`.
    path: the file; its folder is made if need be.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(result, indent=1, ensure_ascii=False)
  # A line break inside of a string is not one in JSON.
  text = re.sub(
    r'\[\n\s+([^\[\]{}]*?)\n\s+\]',
    lambda match: '[' + re.sub(r',\n +', ', ', match[1]) + ']',
    text,
  )
  with written_whole(path) as partial:
    partial.write_text(text + '\n')


def _part(
  earlier: Mapping[str, Any] | None, command: Command
) -> dict[str, Any]:
  """What a result has of a command, with whole configs; empty if nothing."""
  known = earlier['commands'].get(command.label) if earlier else None
  if earlier is None or known is None or known['line'] != command.line:
    return {'commands': {}, 'runs': [], 'images': {}, 'analysis': {}}
  label, prefix = command.label, f'{command.label}/'
  return {
    'commands': {label: known},
    'runs': [
      run | {'config': earlier['config'] | run['config']}
      for run in earlier['runs']
      if run['run'].startswith(prefix)
    ],
    'images': {
      key: x for key, x in earlier['images'].items() if key.startswith(prefix)
    },
    'analysis': {
      key: x for key, x in earlier['analysis'].items() if key == label
    },
  }


def _runs(folder: pathlib.Path, command: Command) -> Iterator[contents.Run]:
  """Runs below a folder, named LABEL/RUN."""
  if not any(folder.rglob(METRICS_FILE)):
    return
  (part,) = contents.read_parts([folder])
  for run in part.runs:
    name = f'{command.label}/{run.name}'
    yield dataclasses.replace(run, name=name)


def _run(
  run: contents.Run, metrics: Sequence[str], config: Mapping[str, Any]
) -> dict[str, Any]:
  """One run: its seed, its steps and the seconds they took, its scores.

  Of each score the value at the last evaluation, and of each metric of the
  table its best one, with its step, and the curve.
  """
  for name in metrics:
    if name not in run.scores:
      raise ValueError(f'{run.name} has no score {name}')
  scores: dict[str, Any] = {}
  for name, curve in run.scores.items():
    scores[name] = {'last': curve[-1][1]}
    if name in metrics:
      step, best = max(curve, key=lambda point: point[1])
      scores[name] |= {'best': best, 'best_step': step, 'curve': curve}
  return {
    'run': run.name,
    'seed': run.config.get('seed'),
    'last_step': run.last_step,
    'training_seconds': _training_seconds(run),
    'scores': scores,
    'config': config,
  }


def _training_seconds(run: contents.Run) -> float:
  """Without compilation, evaluation and pauses: steps over their rates."""
  seconds, before = 0.0, 0
  for step, rate in run.training.get('steps_per_second', []):
    seconds += (step - before) / rate if rate else 0.0
    before = step
  return seconds


def _images(path: pathlib.Path, command: Command) -> dict[str, Any]:
  """Scores of an evaluation, by row and protocol."""
  found: dict[str, Any] = {}
  for score in json.loads(path.read_text()):
    of = score.get('set') or pathlib.Path(score['weights']).stem
    key = f'{command.label}/{of}'
    if score.get('sigma') is not None:
      key += f'/sigma{score["sigma"]:g}'
    row = [score[x] for x in ('name', 'psnr', 'ssim')]
    row += [score['input_psnr'], score['input_ssim']]
    found.setdefault(key, {}).setdefault(score['protocol'], []).append(row)
  return found


def _portable(value: Any, places: Mapping[str, str]) -> Any:
  """A value with placeholders for the folders of this machine."""
  if isinstance(value, str):
    # The longest first: one may lie in another.
    for name, folder in sorted(places.items(), key=lambda x: -len(x[1])):
      if folder and f'{value}/'.startswith(f'{folder}/'):
        return f'{{{name}}}{value.removeprefix(folder)}'
  if isinstance(value, Mapping):
    return {key: _portable(x, places) for key, x in value.items()}
  if isinstance(value, list):
    return [_portable(x, places) for x in value]
  return value


def _rounded(value: Any) -> Any:
  if isinstance(value, float):
    return float(f'{value:.8g}')
  if isinstance(value, Mapping):
    return {key: _rounded(x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [_rounded(x) for x in value]
  return value
