r"""Trains a student as a config says.

  python -m rsdjax.main --config configs/rsd/digits.py --workdir runs/mine
  python -m rsdjax.main --config configs/rsd/digits.py --workdir runs/mine \
    --config.optimizer.learning_rate=1e-3 --dry_run

Any field of the config can be set. The same command goes on where a stopped run
has left off. With `--dry_run` it says what the run would be, and ends.
"""

import pathlib
import tempfile

import ml_collections

from common import commands
from common import dry_run as dry_runs
from rsdjax import experiment, train


def dry_run(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> str:
  """Says what a run would be, see `common.dry_run.report`.

  A teacher that is to be trained first has its first weights.

  Args:
    config: as the files in `configs/rsd` build it.
    workdir: folder of the run.

  Returns:
    The report.

  Raises:
    FileNotFoundError: data or teacher are not there.
    ValueError: a config value or the teacher's file does not fit.
  """
  remark = ''
  with tempfile.TemporaryDirectory() as folder:
    teacher_path = None
    if config.distiller.name != 'none':
      teacher_path = config.teacher.checkpoint
      if not teacher_path:
        teacher_path = pathlib.Path(folder, experiment.MODEL_FILE)
        teacher = experiment.build(train.teacher_config(config), None)
        experiment.export_student(
          teacher, teacher.initial_state(), {}, teacher_path
        )
        remark = (
          'the teacher would be trained first: an untrained one of the same '
          'shapes is in its place\n'
        )
    parts, loop, state = train.prepare(config, teacher_path)
  moments = (parts.dataset.mean, parts.dataset.std)
  return remark + dry_runs.report(loop, state, workdir, moments=moments)


if __name__ == '__main__':
  commands.train(train.train_and_evaluate, dry_run)
