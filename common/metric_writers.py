"""Where numbers and pictures of a run go: console, files, TensorBoard."""

import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from PIL import Image

from common import progress
from common.whole_files import written_whole

_LOGGER = logging.getLogger(__name__)

METRICS_FILE = 'metrics.jsonl'
PICTURES_FILE = 'pictures.jsonl'
PICTURES_FOLDER = 'pictures'


class MetricWriter:
  """Writes scalars and pictures of the run, from process 0 alone."""

  def __init__(
    self,
    workdir: str | pathlib.Path,
    *,
    num_steps: int,
    resumed_at: int = 0,
    tensorboard: bool = False,
  ):
    """Opens the files of a run folder.

    Args:
      workdir: the run folder.
      num_steps: length of the run, for the console.
      resumed_at: step that the run goes on from; lines of later steps, which a
        killed run has left behind, are dropped since they come again.
      tensorboard: write TensorBoard event files too.
    """
    self._num_steps = num_steps
    self._active = jax.process_index() == 0
    self._workdir = pathlib.Path(workdir)
    self._summaries = None
    if not self._active:
      return
    self.rewind(resumed_at)
    if tensorboard:
      import tensorboardX  # Slow to import, and seldom asked for.

      self._summaries = tensorboardX.SummaryWriter(
        str(workdir), purge_step=resumed_at + 1
      )

  def rewind(self, step: int) -> None:
    """Drops lines and pictures of later steps, which will come again."""
    if not self._active:
      return
    for name in (METRICS_FILE, PICTURES_FILE):
      path = self._workdir / name
      if not path.exists():
        continue
      lines = _read_lines(path)
      kept = [json.dumps(x) + '\n' for x in lines if x['step'] <= step]
      path.write_text(''.join(kept))
      for line in lines:
        if line['step'] > step and 'file' in line:
          (self._workdir / line['file']).unlink(missing_ok=True)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one set of named numbers for a step."""
    if not self._active:
      return
    loss_first = sorted(scalars, key=lambda name: name != 'loss')
    values = {name: float(scalars[name]) for name in loss_first}
    self._append(METRICS_FILE, {'step': step, **values})
    if self._summaries is not None:
      for name, value in values.items():
        self._summaries.add_scalar(name, value, step)
    eta = values.pop('eta_seconds', None)
    shown = [f'step {step}/{self._num_steps}']
    shown += [f'{name} {value:.4g}' for name, value in values.items()]
    if eta is not None:
      shown.append(f'ETA {progress.format_seconds(eta)}')
    _LOGGER.info('%s', ' | '.join(shown))

  def write_pictures(
    self, step: int, pictures: Mapping[str, np.ndarray]
  ) -> None:
    """Writes pictures as PNG files below the folder `pictures` of the run.

    Args:
      step: that they are of.
      pictures: RGB by name, uint8 [h, w, 3]. One named NAME becomes
        `NAME/STEP.png`, with the step in eight digits, an image of TensorBoard
        and a line of `pictures.jsonl`. Of one named FOLDER/NAME only the last
        counts: it becomes `FOLDER/NAME.png`.
    """
    if not self._active:
      return
    for name, picture in pictures.items():
      stem = name if '/' in name else f'{name}/{step:08d}'
      file = f'{PICTURES_FOLDER}/{stem}.png'
      path = self._workdir / file
      path.parent.mkdir(parents=True, exist_ok=True)
      with written_whole(path) as partial:
        Image.fromarray(picture).save(partial, format='PNG')
      if '/' in name:
        continue
      self._append(PICTURES_FILE, {'step': step, 'name': name, 'file': file})
      if self._summaries is not None:
        self._summaries.add_image(name, picture, step, dataformats='HWC')

  def close(self) -> None:
    """Writes out what is left in buffers."""
    if self._summaries is not None:
      self._summaries.close()

  def _append(self, name: str, line: Mapping[str, Any]) -> None:
    with (self._workdir / name).open('a') as file:
      file.write(json.dumps(line) + '\n')


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, float]]:
  """Lines of a run's metrics file; a last line cut off by a kill is left out.

  Args:
    workdir: the run folder.

  Returns:
    One dict per line, with `step` and the scalars.

  Raises:
    FileNotFoundError: the folder has no metrics file.
    ValueError: a line other than the last is not JSON.
  """
  return _read_lines(pathlib.Path(workdir) / METRICS_FILE)


def _read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  lines = path.read_text().splitlines()
  parsed = []
  for number, line in enumerate(lines, start=1):
    try:
      parsed.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number < len(lines):
        raise ValueError(f'{path}: line {number} is not JSON') from error
  return parsed
