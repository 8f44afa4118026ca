"""The command of a trainer: flags, console, compilation cache."""

import logging
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
import ml_collections
from absl import app, flags
from ml_collections import config_flags

from common import (
  compilation_cache,
  configuration,
  console,
  distributed,
  preemption,
)

_LOGGER = logging.getLogger(__name__)

TrainAndEvaluate = Callable[
  [ml_collections.ConfigDict, str | pathlib.Path], dict[str, float]
]
DryRun = Callable[[ml_collections.ConfigDict, str | pathlib.Path], str]


def define_config_flags(folder: str) -> None:
  """Defines the flags `--config` and `--workdir`, both required.

  Args:
    folder: what `--workdir` is the folder of.
  """
  define_config_flag()
  flags.DEFINE_string('workdir', None, f'Folder of the {folder}.')
  flags.mark_flag_as_required('workdir')


def define_config_flag() -> None:
  """Defines the flag `--config`, which is required."""
  config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.'
  )
  flags.mark_flag_as_required('config')


def run(main: Callable[[], None]) -> None:
  """Parses the flags, sets up the process, and calls a command's function.

  A run that ends early since its machine is taken away has done well, and so
  its command exits with 0.
  """

  def checked(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
      raise app.UsageError(f'unexpected arguments: {" ".join(arguments[1:])}')
    if 'distributed' in flags.FLAGS and flags.FLAGS.distributed:
      distributed.initialize()
    console.configure()
    compilation_cache.enable()
    try:
      console.run(main)
    except preemption.PreemptedError as notice:
      _LOGGER.info('%s', notice)

  app.run(checked, flags_parser=_parse)


def _parse(arguments: list[str]) -> list[str]:
  # Absl's own help has no flags but those of the main module, and exit code 1.
  if {'-h', '--help'} & set(arguments[1:]):
    print(_help(arguments[0]))
    sys.exit(0)
  return configuration.parse_flags(arguments)


def _help(program: str) -> str:
  """What the command does, as its module says, and its flags."""
  by_module = flags.FLAGS.flags_by_module_dict()
  lines = [str(sys.modules['__main__'].__doc__).rstrip(), '', 'flags:']
  for flag in by_module.get(__name__, []) + by_module.get(program, []):
    default = '' if flag.default is None else f' [{flag.default_as_str}]'
    lines.append(f'  --{flag.name}: {flag.help}{default}')
  lines.append('  --config.FIELD=VALUE: replaces any field of the config.')
  return '\n'.join(lines)


def train(train_and_evaluate: TrainAndEvaluate, dry_run: DryRun) -> None:
  """Runs a trainer on the flags, and prints the scores of the last state.

  Args:
    train_and_evaluate: takes a config and the folder of the run.
    dry_run: takes the same, and gives what `--dry_run` prints.
  """
  define_config_flags('run')
  flags.DEFINE_bool(
    'dry_run',
    False,
    'Only build the run, compile its step and read a batch: print parameters, '
    'FLOPs and memory, and write the batch to dry_run/batch.png of the folder.',
  )
  flags.DEFINE_bool(
    'distributed',
    False,
    'One of several processes, on as many machines: as the environment of '
    'Slurm, GKE, Cloud TPU or Open MPI says, or JAX_COORDINATOR_ADDRESS, '
    'JAX_NUM_PROCESSES and JAX_PROCESS_ID.',
  )

  def main() -> None:
    if flags.FLAGS.dry_run:
      report = dry_run(flags.FLAGS.config, flags.FLAGS.workdir)
      if jax.process_index() == 0:
        print(report)
      return
    scores = train_and_evaluate(flags.FLAGS.config, flags.FLAGS.workdir)
    if jax.process_index() == 0:
      for name, value in scores.items():
        print(f'{name} {value:.4f}')

  run(main)
