"""The rows of an experiment in the files of results."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from results.experiment import Experiment, Row

# `result.json` by experiment, those there are.
Results = Mapping[str, Mapping[str, Any]]


def read(
  folder: pathlib.Path, experiments: Sequence[Experiment]
) -> dict[str, dict[str, Any]]:
  """Reads the results of experiments.

  Args:
    folder: has `NAME/result.json` of those that were run.
    experiments: all there are.

  Returns:
    Results by the name of the experiment.

  Raises:
    ValueError: a result is of no experiment, or of other commands than those
      that the experiment has now.
  """
  by_name = {experiment.name: experiment for experiment in experiments}
  found = {}
  for path in sorted(folder.glob('*/result.json')):
    name = path.parent.name
    if name not in by_name:
      raise ValueError(f'{path}: there is no experiment {name!r}')
    found[name] = json.loads(path.read_text())
    for label, of_command in found[name]['commands'].items():
      command = by_name[name].command(label)
      if command.line != of_command['line']:
        raise ValueError(
          f'{path}: {label} was run as\n{of_command["line"]}\nand is now\n'
          f'{command.line}\nRun it again.'
        )
  return found


def runs_of(
  row: Row, experiment: Experiment, results: Results
) -> list[Mapping[str, Any]]:
  """The runs of a row, one for each seed; none where it was not run.

  Args:
    row: of the experiment.
    experiment: that shows the row.
    results: by experiment.
  """
  result = results.get(row.of or experiment.name, {})
  return [
    run
    for run in result.get('runs', [])
    if re.sub(r'_seed\d+$', '', run['run']) == row.key
  ]
