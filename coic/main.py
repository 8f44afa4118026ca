"""Trains a derainer: `python -m coic.main --config FILE --workdir FOLDER`.

Any field of the config can be overridden: `--config.optimizer.learning_rate=1`.
The same command goes on where a stopped run has left off.
"""

from coic import train
from common import commands

if __name__ == '__main__':
  commands.train(train.train_and_evaluate)
