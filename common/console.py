"""The lines that a command prints while it runs."""

import logging
import sys
from collections.abc import Callable

import jax
from absl import logging as absl_logging

# A module that is run by `python -m` logs as __main__.
_LOGGERS = ('common', 'rsdjax', 'coic', 'trnr', '__main__')


def configure() -> None:
  """Shows our own log lines on standard error, from process 0 alone.

  Commands call this; a program that imports the library sets up `logging` as
  it likes, and finds our loggers under the names of the packages.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax says much.
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  level = logging.INFO if jax.process_index() == 0 else logging.ERROR
  for name in _LOGGERS:
    logger = logging.getLogger(name)
    logger.setLevel(level)
    logger.handlers = [handler]
    logger.propagate = False


def show(text: str) -> None:
  """Prints text; names of files may have letters that the output has not."""
  encoding = sys.stdout.encoding or 'utf-8'
  print(text.encode(encoding, errors='backslashreplace').decode(encoding))


def run(main: Callable[[], None]) -> None:
  """Calls the function of a command; Ctrl-C ends it with one line and 130."""
  try:
    main()
  except KeyboardInterrupt:
    print('stopped by Ctrl-C', file=sys.stderr)
    sys.exit(130)  # As shells say it of a program that SIGINT has ended.
