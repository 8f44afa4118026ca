"""Runs commands of the library as a user does, in one process or several."""

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Mapping

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a process has left.

  Attributes:
    code: its exit code.
    out: standard output.
    err: standard error.
  """

  code: int
  out: str
  err: str


def start(
  *command: str,
  processes: int = 1,
  devices: int = 1,
  environment: Mapping[str, str] | None = None,
) -> list[subprocess.Popen[str]]:
  """Starts `python -m COMMAND` in as many processes, which know each other.

  Args:
    *command: module and arguments.
    processes: how many; of several, each gets `--distributed`.
    devices: of each process.
    environment: variables beside those of this process.

  Returns:
    The processes.
  """
  variables = {
    **os.environ,
    'XLA_FLAGS': os.environ['XLA_FLAGS']
    + f' --xla_force_host_platform_device_count={devices}',
    **(environment or {}),
  }
  command = (sys.executable, '-m', *command)
  if processes > 1:
    command += ('--distributed',)
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{free.getsockname()[1]}'
    variables |= {
      'JAX_COORDINATOR_ADDRESS': address,
      'JAX_NUM_PROCESSES': str(processes),
    }
  return [
    subprocess.Popen(
      command,
      env=variables | {'JAX_PROCESS_ID': str(number)},
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(processes)
  ]


def outcomes(
  started: list[subprocess.Popen[str]], timeout: float = 600.0
) -> list[Outcome]:
  """Waits for processes, and kills them all if they take too long."""
  found = []
  try:
    for process in started:
      out, err = process.communicate(timeout=timeout)
      found.append(Outcome(process.returncode, out, err))
  finally:
    for process in started:
      process.kill()
  return found


def run(*command: str, **options) -> list[Outcome]:
  """Starts processes, waits, and says what a failed one has said."""
  found = outcomes(start(*command, **options))
  for outcome in found:
    assert outcome.code == 0, outcome.err[-4000:]
  return found
