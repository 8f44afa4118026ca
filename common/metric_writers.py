"""Where the numbers of a run go: console, JSON lines, TensorBoard."""

import json
import logging
import pathlib
from collections.abc import Mapping

import jax

from common import progress

_LOGGER = logging.getLogger(__name__)

METRICS_FILE = 'metrics.jsonl'


class MetricWriter:
  """Writes scalars of the run to each place, from process 0 alone."""

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
    self._path = pathlib.Path(workdir) / METRICS_FILE
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
    """Drops the lines of later steps, which are going to come again."""
    if self._active and self._path.exists():
      lines = read_metrics(self._path.parent)
      kept = [json.dumps(x) + '\n' for x in lines if x['step'] <= step]
      self._path.write_text(''.join(kept))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one set of named numbers for a step."""
    if not self._active:
      return
    loss_first = sorted(scalars, key=lambda name: name != 'loss')
    values = {name: float(scalars[name]) for name in loss_first}
    with self._path.open('a') as file:
      file.write(json.dumps({'step': step, **values}) + '\n')
    if self._summaries is not None:
      for name, value in values.items():
        self._summaries.add_scalar(name, value, step)
    eta = values.pop('eta_seconds', None)
    shown = [f'step {step}/{self._num_steps}']
    shown += [f'{name} {value:.4g}' for name, value in values.items()]
    if eta is not None:
      shown.append(f'ETA {progress.format_seconds(eta)}')
    _LOGGER.info('%s', ' | '.join(shown))

  def close(self) -> None:
    """Writes out what is left in buffers."""
    if self._summaries is not None:
      self._summaries.close()


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
  path = pathlib.Path(workdir) / METRICS_FILE
  lines = path.read_text().splitlines()
  parsed = []
  for number, line in enumerate(lines, start=1):
    try:
      parsed.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number < len(lines):
        raise ValueError(f'{path}: line {number} is not JSON') from error
  return parsed
