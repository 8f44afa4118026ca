"""Runs experiments, and writes `results/NAME/result.json`.

  python -m results.run --list
  python -m results.run --data DATA --weights WEIGHTS         # all of them
  python -m results.run 'rsd_*' trnr_sizes/images_5 --data DATA

A name is that of an experiment, or EXPERIMENT/LABEL for one of its commands, or
a pattern. What has come to its end is not run again; what was stopped goes on
with the same command. Runs and logs are in `runs/results`; without them, what a
result has of other commands stays.
"""

import argparse
import fnmatch
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from common import console
from results import collect, environment, progress
from results.experiment import Command, Experiment
from results.experiments import EXPERIMENTS

ROOT = environment.ROOT
RUNS = ROOT / 'runs' / 'results'
_SAVE_EVERY_SECONDS = 10  # So much of the wall time is lost by a kill.
_LINES_SHOWN = 15  # Of the log of a command that has failed.


class FailedError(RuntimeError):
  """A command has failed, or was ended from outside."""


def run_command(
  command: Command, folder: pathlib.Path, places: Mapping[str, str]
) -> None:
  """Runs a command to its end, unless it has been there.

  Args:
    command: of an experiment.
    folder: of the experiment's runs; gets the log, `LABEL.log`.
    places: folders by placeholder.

  Raises:
    FailedError: the command has failed, with the end of its log; or it was
      asked to end early.
    ValueError: a folder is not given, or `folder` has runs of another command.
  """
  state = progress.read(folder, command)
  if state.done:
    return
  own = folder / command.label
  words = command.words({**places, 'folder': str(own)})
  own.mkdir(parents=True, exist_ok=True)
  here = environment.describe()
  if here not in state.environments:
    state.environments.append(here)
  log = folder / f'{command.label}.log'
  with log.open('a') as output:
    process = subprocess.Popen(
      [sys.executable, *words], cwd=ROOT, stdout=output, stderr=output
    )
    before, start = state.seconds, time.monotonic()
    try:
      while process.poll() is None:
        state.seconds = before + time.monotonic() - start
        progress.write(state, folder, command)
        try:
          process.wait(_SAVE_EVERY_SECONDS)
        except subprocess.TimeoutExpired:
          continue
    finally:
      process.terminate()  # It saves its state, and ends.
      process.wait()
      state.seconds = before + time.monotonic() - start
      progress.write(state, folder, command)
  if process.returncode:
    last = log.read_text(errors='replace').splitlines()[-_LINES_SHOWN:]
    raise FailedError(
      '\n'.join([*last, f'exit code {process.returncode}, see {log}'])
    )
  # A trainer that is asked to end saves its state, and has done well.
  for config in own.glob('**/config.json'):
    if not (config.parent / 'model.safetensors').exists():
      raise FailedError(f'{config.parent} was stopped; start it again to go on')
  state.done = True
  progress.write(state, folder, command)


def chosen(
  experiments: Sequence[Experiment], patterns: Sequence[str]
) -> list[tuple[Experiment, Command]]:
  """Commands that patterns ask for, in their order.

  Args:
    experiments: all there are.
    patterns: of EXPERIMENT or EXPERIMENT/LABEL; none asks for all.

  Raises:
    ValueError: a pattern fits no command.
  """
  found = []
  unused = set(patterns)
  for experiment in experiments:
    for command in experiment.commands:
      names = (experiment.name, f'{experiment.name}/{command.label}')
      fits = {
        pattern
        for pattern in patterns
        if any(fnmatch.fnmatchcase(name, pattern) for name in names)
      }
      unused -= fits
      if fits or not patterns:
        found.append((experiment, command))
  if unused:
    raise ValueError(f'{min(unused)!r} fits no command; --list shows them')
  return found


def run(
  experiments: Sequence[Experiment],
  patterns: Sequence[str],
  *,
  places: Mapping[str, str],
  results: pathlib.Path = collect.RESULTS,
) -> None:
  """Runs what patterns ask for, and writes a result after each command.

  Args:
    experiments: all there are.
    patterns: see `chosen`.
    places: folders `data`, `weights` and `runs`; '' for one not given.
    results: gets `NAME/result.json`.

  Raises:
    FailedError: see `run_command`, as for ValueError.
    ValueError: or a pattern fits nothing, or a command reads the runs of
      another one that has not come to its end.
  """
  runs = pathlib.Path(places['runs'])
  by_name = {experiment.name: experiment for experiment in experiments}
  for experiment, command in chosen(experiments, patterns):
    name = f'{experiment.name}/{command.label}'
    for other, label in command.needs:
      needed = by_name[other].command(label)
      if not progress.read(runs / other, needed).done:
        raise ValueError(f'{name} reads the runs of {other}/{label}: run it')
    print(f'{name}: {command.line}', flush=True)
    folder = runs / experiment.name
    try:
      run_command(command, folder, places)
    except FailedError as error:
      raise FailedError(f'{error}\n{name} has not come to its end') from error
    path = results / experiment.name / 'result.json'
    earlier = json.loads(path.read_text()) if path.exists() else None
    result = collect.collect(experiment, folder, places, earlier=earlier)
    collect.write(result, path)
    seconds = result['commands'][command.label]['seconds']
    print(f'{name}: {seconds / 60:.1f} minutes', flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    'names', nargs='*', metavar='NAME', help='what to run; all by default'
  )
  parser.add_argument('--data', default='', help='folder of the data sets')
  parser.add_argument(
    '--weights', default='', help='folder of published weights'
  )
  parser.add_argument(
    '--list', action='store_true', help='only show the commands'
  )
  options = parser.parse_args(arguments)
  try:
    if options.list:
      for experiment, command in chosen(EXPERIMENTS, options.names):
        print(f'{experiment.name}/{command.label}\n  {command.line}')
      return
    places = {
      name: str(pathlib.Path(folder).resolve()) if folder else ''
      for name, folder in (('data', options.data), ('weights', options.weights))
    }
    # A SIGTERM is passed on to the command.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run(EXPERIMENTS, options.names, places={**places, 'runs': str(RUNS)})
  except (FailedError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')


if __name__ == '__main__':
  console.run(main)
