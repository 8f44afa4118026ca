"""How far a command has come, kept beside its runs."""

import dataclasses
import json
import pathlib
from typing import Any

from common.whole_files import written_whole
from results.experiment import Command


@dataclasses.dataclass
class Progress:
  """State of a command, over all its starts.

  Attributes:
    line: the command, with placeholders.
    seconds: of wall time.
    done: it has come to its end.
    environments: one for each that it was started in, see
      `environment.describe`.
  """

  line: str
  seconds: float = 0.0
  done: bool = False
  environments: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def path_of(folder: pathlib.Path, command: Command) -> pathlib.Path:
  """The file that holds the progress of a command.

  Args:
    folder: of the experiment's runs.
    command: one of its commands.
  """
  return folder / f'{command.label}.json'


def read(folder: pathlib.Path, command: Command) -> Progress:
  """Reads the progress of a command, which may not have been started.

  Args:
    folder: of the experiment's runs.
    command: one of its commands.

  Raises:
    ValueError: what lies there is of another command.
  """
  path = path_of(folder, command)
  if not path.exists():
    return Progress(command.line)
  progress = Progress(**json.loads(path.read_text()))
  if progress.line != command.line:
    raise ValueError(
      f'{folder / command.label} is of another command:\n{progress.line}\n'
      f'now it is\n{command.line}\nRemove that folder, and {path.name} beside '
      'it, to run it anew.'
    )
  return progress


def write(progress: Progress, folder: pathlib.Path, command: Command) -> None:
  """Writes the progress of a command.

  Args:
    progress: to write.
    folder: of the experiment's runs; it is made if need be.
    command: one of its commands.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with written_whole(path_of(folder, command)) as partial:
    partial.write_text(json.dumps(dataclasses.asdict(progress), indent=2))
