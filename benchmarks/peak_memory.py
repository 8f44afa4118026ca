"""Peak memory of one side of a case, in this process and those it starts.

  python -m benchmarks.peak_memory 'pipeline cifar' ours

prints MiB. Worker processes import the main module anew, and all that they hold
counts. So this one imports neither library before it is asked to: the workers
of a side then hold what that side itself needs, and not the other library too.
"""

import sys


def main() -> None:
  """Runs the command."""
  from benchmarks import run

  name, side = sys.argv[1:]
  print(run.peak_of(name, side))


if __name__ == '__main__':
  main()
