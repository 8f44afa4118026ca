r"""Trains a derainer as a config says.

  python -m coic.main --config configs/coic/photos.py --workdir runs/mine
  python -m coic.main --config configs/coic/photos.py --workdir runs/mine \
    --config.optimizer.learning_rate=1e-3 --dry_run

Any field of the config can be set. The same command goes on where a stopped run
has left off. With `--dry_run` it says what the run would be, and ends.
"""

import pathlib

import ml_collections

from coic import train
from common import commands
from common import dry_run as dry_runs


def dry_run(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> str:
  """Says what a run would be, see `common.dry_run.report`.

  Args:
    config: as the files in `configs/coic` build it.
    workdir: folder of the run.

  Returns:
    The report.

  Raises:
    FileNotFoundError: data or weights are absent.
    ValueError: a config value does not fit.
  """
  _, loop, state = train.prepare(config)
  return dry_runs.report(loop, state, workdir)


if __name__ == '__main__':
  commands.train(train.train_and_evaluate, dry_run)
