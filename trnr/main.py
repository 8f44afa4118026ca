"""Trains a network: `python -m trnr.main --config FILE --workdir FOLDER`.

Any field of the config can be overridden: `--config.optimizer.learning_rate=1`.
The same command goes on where a stopped run has left off.
"""

from collections.abc import Sequence

from absl import app, flags
from ml_collections import config_flags

from common import compilation_cache, configuration, console
from trnr import train


def main(arguments: Sequence[str]) -> None:
  """Runs `train_and_evaluate` on the flags."""
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments: {" ".join(arguments[1:])}')
  console.configure()
  compilation_cache.enable()
  scores = train.train_and_evaluate(flags.FLAGS.config, flags.FLAGS.workdir)
  for name, value in scores.items():
    print(f'{name} {value:.4f}')


if __name__ == '__main__':
  config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.'
  )
  flags.DEFINE_string('workdir', None, 'Folder of the run.')
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=configuration.parse_flags)
