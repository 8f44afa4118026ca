"""What a report shows: the runs, tables and pictures in some folders.

In a run folder lie `metrics.jsonl`, `config.json`, and at the end of the run
`model.safetensors`. Pictures of the run are `pictures/NAME/STEP.png`, and the
pairs `pictures/before_after/NAME_before.png` and `NAME_after.png`. All other
.png and .svg files below a folder are figures, such as a comparison or an
analysis draws; `table.md` is the table of a comparison.
"""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from safetensors import safe_open, SafetensorError

from common import configuration, metric_writers, metrics

MODEL_FILE = 'model.safetensors'
TABLE_FILE = 'table.md'
_BEFORE_AFTER = 'before_after'
# Of a run, what is no picture and may be large.
_PASSED_OVER = ('checkpoints', 'damaged')
_SEED = re.compile(r'_seed\d+$')

Curve = list[tuple[int, float]]


class ScoreName(NamedTuple):
  """The parts of a name such as `heavy_coic_y_input_psnr`.

  Attributes:
    of: the pictures that are scored; '' where there is one set.
    protocol: name in `metrics.PROTOCOLS`.
    measure: 'psnr' or 'ssim'.
    of_input: of the degraded pictures, not the restored ones.
  """

  of: str
  protocol: str
  measure: str
  of_input: bool


@dataclasses.dataclass(frozen=True)
class Run:
  """One run folder.

  Attributes:
    name: as the report calls it.
    scores: by name, what evaluations gave.
    training: by name, what was measured while training.
    config: values by dotted name.
    shapes: of the exported model's tensors by path; None before the end.
    progress: by name, the file of each step.
    before_after: by name, two files.
  """

  name: str
  scores: dict[str, Curve]
  training: dict[str, Curve]
  config: dict[str, object]
  shapes: dict[str, tuple[int, ...]] | None
  progress: dict[str, dict[int, pathlib.Path]]
  before_after: dict[str, tuple[pathlib.Path, pathlib.Path]]

  @property
  def method(self) -> str:
    """The name without its seed: runs of one method are shown alike."""
    return _SEED.sub('', self.name)

  @property
  def last_step(self) -> int:
    """Step of the last line of the metrics; 0 before the first."""
    curves = [*self.scores.values(), *self.training.values()]
    return max((curve[-1][0] for curve in curves), default=0)


@dataclasses.dataclass(frozen=True)
class Part:
  """What belongs together: a run, or runs that are compared.

  Attributes:
    name: as the report calls it.
    table: Markdown of a comparison, or ''.
    runs: in the order of their names.
    figures: files by relative name.
  """

  name: str
  table: str
  runs: list[Run]
  figures: dict[str, pathlib.Path]


def read_parts(folders: Sequence[str | os.PathLike[str]]) -> list[Part]:
  """Reads folders: runs, folders of runs, or figures alone.

  Args:
    folders: at least one. Those that are runs come together in one part, each
      other one is a part of its own.

  Returns:
    The parts.

  Raises:
    FileNotFoundError: a folder or the config of a run is not there.
    NotADirectoryError: a folder is none.
    ValueError: a folder has nothing to show, or a file is damaged.
  """
  paths = [pathlib.Path(folder) for folder in dict.fromkeys(folders)]
  names = [path.resolve().name for path in paths]
  if len(set(names)) < len(names):
    names = [str(path) for path in paths]
  together: list[Part] = []
  parts: list[Part] = []
  for path, name in zip(paths, names, strict=True):
    part = _read_part(path, name)
    (together if _is_run(path) else parts).append(part)
  if len(together) == 1:
    return [*together, *parts]
  if together:
    runs = [run for part in together for run in part.runs]
    figures = {
      f'{part.name}/{name}': path
      for part in together
      for name, path in part.figures.items()
    }
    parts.insert(0, Part('runs', '', runs, figures))
  return parts


def split_score(name: str) -> ScoreName | None:
  """Takes the name of a score apart; None for one without a protocol."""
  match = re.fullmatch(r'(.+?)(_input)?_(psnr|ssim)', name)
  if match is None:
    return None
  stem, of_input, measure = match.groups()
  for protocol in metrics.PROTOCOLS:
    if stem == protocol or stem.endswith(f'_{protocol}'):
      of = stem.removesuffix(protocol).removesuffix('_')
      return ScoreName(of, protocol, measure, of_input is not None)
  return None


def _is_run(folder: pathlib.Path) -> bool:
  return (folder / metric_writers.METRICS_FILE).is_file()


def _read_part(root: pathlib.Path, name: str) -> Part:
  if not root.exists():
    raise FileNotFoundError(f'{root} is not there')
  if not root.is_dir():
    raise NotADirectoryError(f'{root} is no folder')
  table = ''
  runs: list[Run] = []
  figures: dict[str, pathlib.Path] = {}
  of_runs: set[pathlib.Path] = set()
  for folder in _folders(root):
    relative = folder.relative_to(root).as_posix()
    if _is_run(folder):
      own = name if folder == root else relative
      if _is_run(root) and folder != root:
        own = f'{name}/{relative}'  # Such as the teacher of a run.
      run = _read_run(folder, own)
      runs.append(run)
      of_runs.update(*(x.values() for x in run.progress.values()))
      of_runs.update(*run.before_after.values())
    for path in sorted(folder.iterdir()):
      is_figure = path.suffix.lower() in ('.png', '.svg') and path.is_file()
      if is_figure and path not in of_runs:
        figures[path.relative_to(root).as_posix()] = path
  if (root / TABLE_FILE).is_file():
    table = _read_text(root / TABLE_FILE)
  if not (runs or figures or table):
    raise ValueError(
      f'{root} holds no run ({metric_writers.METRICS_FILE}), no {TABLE_FILE} '
      'and no figure (.png, .svg)'
    )
  return Part(name, table, runs, figures)


def _folders(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """The folder and those below, but for what is not to be searched."""
  for name, below, _ in os.walk(root):
    below[:] = sorted(
      x for x in below if x not in _PASSED_OVER and not x.startswith('.')
    )
    yield pathlib.Path(name)


def _read_run(folder: pathlib.Path, name: str) -> Run:
  scores, training = _read_curves(folder)
  model = folder / MODEL_FILE
  return Run(
    name,
    scores,
    training,
    configuration.read(folder),
    _read_shapes(model) if model.exists() else None,
    _find_progress(folder / metric_writers.PICTURES_FOLDER),
    _find_before_after(folder / metric_writers.PICTURES_FOLDER / _BEFORE_AFTER),
  )


def _read_curves(
  folder: pathlib.Path,
) -> tuple[dict[str, Curve], dict[str, Curve]]:
  """Curves of evaluations and of training."""
  scores: dict[str, Curve] = collections.defaultdict(list)
  training: dict[str, Curve] = collections.defaultdict(list)
  path = folder / metric_writers.METRICS_FILE
  try:
    lines = metric_writers.read_metrics(folder)
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not text: {error}') from error
  for number, line in enumerate(lines, start=1):
    is_numbers = isinstance(line, Mapping) and all(
      isinstance(value, int | float) for value in line.values()
    )
    if not is_numbers or not isinstance(line.get('step'), int):
      raise ValueError(f'{path}: line {number} is not a step with its numbers')
    curves = training if 'loss' in line else scores
    for key, value in line.items():
      if key not in ('step', 'eta_seconds'):
        curves[key].append((int(line['step']), float(value)))
  return dict(scores), dict(training)


def _read_shapes(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
  """Reads the header alone: models can be large."""
  try:
    with safe_open(str(path), framework='np') as file:
      names = file.keys()
      return {name: tuple(file.get_slice(name).get_shape()) for name in names}
  except SafetensorError as error:
    raise ValueError(
      f'{path} is not a whole safetensors file: {error}'
    ) from error


def _find_progress(
  folder: pathlib.Path,
) -> dict[str, dict[int, pathlib.Path]]:
  found: dict[str, dict[int, pathlib.Path]] = {}
  for path in sorted(folder.glob('*/*.png')):
    if path.stem.isdecimal() and path.parent.name != _BEFORE_AFTER:
      found.setdefault(path.parent.name, {})[int(path.stem)] = path
  return {name: dict(sorted(steps.items())) for name, steps in found.items()}


def _find_before_after(
  folder: pathlib.Path,
) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
  found = {}
  for before in sorted(folder.glob('*_before.png')):
    name = before.stem.removesuffix('_before')
    after = folder / f'{name}_after.png'
    if not after.is_file():
      raise FileNotFoundError(f'{before} is there and {after.name} is not')
    found[name] = before, after
  return found


def _read_text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not text: {error}') from error
