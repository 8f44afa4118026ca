"""Trains a network: `python -m trnr.main --config FILE --workdir FOLDER`.

Any field of the config can be overridden: `--config.optimizer.learning_rate=1`.
The same command goes on where a stopped run has left off.
"""

from common import commands
from trnr import train

if __name__ == '__main__':
  commands.train(train.train_and_evaluate)
