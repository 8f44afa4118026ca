"""What an experiment is: its question, its commands, the rows of its table."""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence

# In place of folders, which differ from machine to machine: of data, of
# published weights, of the command's own runs, and of the runs of all.
PLACES = ('data', 'weights', 'folder', 'runs')


@dataclasses.dataclass(frozen=True)
class Command:
  """A part of an experiment, of at most an hour on 2 cores.

  Attributes:
    label: names it within its experiment, and its folder.
    arguments: what stands behind `python`, with placeholders such as `{data}`.
  """

  label: str
  arguments: tuple[str, ...]

  @property
  def line(self) -> str:
    """As one would type it, placeholders included."""
    words = [
      word if re.fullmatch(r'[\w{}@%+=:,./-]+', word) else shlex.quote(word)
      for word in self.arguments
    ]
    return ' '.join(['python', *words])

  @property
  def needs(self) -> list[tuple[str, str]]:
    """Experiment and label of the commands whose runs it reads."""
    found = re.findall(r'\{runs\}/([^/]+)/([^/]+)', ' '.join(self.arguments))
    return [*dict.fromkeys(found)]

  def words(self, places: Mapping[str, str]) -> list[str]:
    """The arguments with folders in place of the placeholders.

    Args:
      places: folders by placeholder.

    Raises:
      ValueError: there is no folder for a placeholder.
    """
    found = []
    for word in self.arguments:
      for name in PLACES:
        if f'{{{name}}}' in word and not places.get(name):
          raise ValueError(f'{self.line}\nneeds a folder for {{{name}}}')
        word = word.replace(f'{{{name}}}', places.get(name, ''))
      found.append(word)
    return found


def compare(package: str, label: str, config: str, *options: str) -> Command:
  """Trains rivals by `python -m PACKAGE.compare`, scored as they go.

  Args:
    package: of the method.
    label: of the command.
    config: file, and its argument after a colon.
    *options: flags of the command beside these.
  """
  return Command(
    label,
    (
      *('-m', f'{package}.compare'),
      *('--config', config),
      '--workdir={folder}',
      '--config.train.pictures=False',
      *options,
    ),
  )


@dataclasses.dataclass(frozen=True)
class Metric:
  """A score of runs; more is better.

  Attributes:
    name: in `metrics.jsonl`.
    title: of the column.
    scale: factor.
    digits: behind the point.
  """

  name: str
  title: str
  scale: float = 1.0
  digits: int = 2


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table of runs: all seeds of one way to train.

  Attributes:
    key: LABEL/RUN without the seed, as LABEL/kd for LABEL/kd_seed0.
    title: how the table calls it.
    of: the experiment that it is from, where it is shown for comparison.
  """

  key: str
  title: str
  of: str = ''


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A row of the table of pictures: weights on a set.

  Attributes:
    key: LABEL/SET for `coic.evaluate`, LABEL/WEIGHTS for `trnr.evaluate`, with
      `/sigmaS` behind it where there is noise.
    title: how the table calls it.
    reference: protocol, PSNR in dB and SSIM of another program on the same
      pictures; None where there are no such numbers.
    remark: beside the reference.
  """

  key: str
  title: str
  reference: tuple[str, float, float] | None = None
  remark: str = ''


@dataclasses.dataclass(frozen=True)
class Value:
  """A row of the table of an analysis.

  Attributes:
    title: how the table calls it.
    path: label of the command, and keys in its `analysis.json`.
    digits: behind the point.
  """

  title: str
  path: tuple[str | int, ...]
  digits: int = 3


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One question, and the commands that answer it.

  Attributes:
    name: of its folder and of the marks in pages.
    title: of its section.
    question: one sentence or two.
    protocol: what is scored, on what, and at which step.
    commands: in the order in which they run.
    metrics: of the table of runs; the first is the headline, whose curve and
      best step are shown too.
    rows: of the table of runs.
    evaluations: rows of the table of pictures.
    values: rows of the table of an analysis.
    not_run: title and reason of what the question asks for and no command does.
  """

  name: str
  title: str
  question: str
  protocol: str
  commands: Sequence[Command] = ()
  metrics: Sequence[Metric] = ()
  rows: Sequence[Row] = ()
  evaluations: Sequence[Evaluation] = ()
  values: Sequence[Value] = ()
  not_run: Sequence[tuple[str, str]] = ()

  def command(self, label: str) -> Command:
    """The command of a label.

    Args:
      label: of one of the commands.

    Raises:
      ValueError: there is none of this label; lists those there are.
    """
    for command in self.commands:
      if command.label == label:
        return command
    labels = [command.label for command in self.commands]
    raise ValueError(f'{self.name} has no command {label!r} among {labels}')
