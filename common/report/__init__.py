"""Writes a report of runs: `python -m common.report RUN [RUN ...]`.

One HTML file that needs no network and no other file: scores with their
protocols, curves, pictures before and after, figures of comparisons and
analyses, configs, and tables of parameters. A RUN is the folder of a run, a
folder that holds runs (such as that of a comparison), or one of figures. Where
pictures of a run are looked for: see `common.report.contents`.
"""

import argparse
import os
import pathlib
from collections.abc import Sequence

from common import console
from common.report import page
from common.report.contents import Part, read_parts
from common.report.text import plural
from common.whole_files import written_whole

_EXAMPLES = """
examples:
  python -m common.report runs/digits
  python -m common.report runs/plain runs/coic --output coic.html
  python -m common.report runs/quickstart/rsd runs/quickstart/trnr \\
    runs/quickstart/coic --output runs/quickstart/report.html
"""


def write_report(
  folders: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> list[Part]:
  """Writes a report, whole or not at all.

  Args:
    folders: of runs, of comparisons or of figures; at least one.
    output: the .html file; one that is there is replaced. PNG pictures are
      part of it, shrunk to at most 1,000 pixels of width and 4 million in all.

  Returns:
    What the report shows.

  Raises:
    OSError: a file or folder is not there, or cannot be read or written.
    ValueError: a folder has nothing to show, or a file is damaged.
  """
  output = pathlib.Path(output)
  if not output.parent.is_dir():
    raise FileNotFoundError(f'the folder {output.parent} is not there')
  if output.exists() and not output.is_file():
    raise OSError(f'{output} is no regular file')
  parts = read_parts(folders)
  text = page.page(parts)
  with written_whole(output) as partial:
    partial.write_text(text, encoding='utf-8')
  return parts


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes a report; see the module, or `--help`."""
  parser = argparse.ArgumentParser(
    prog='python -m common.report',
    description=__doc__,
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'runs', nargs='+', metavar='RUN', help='folder of a run, or of runs'
  )
  parser.add_argument(
    '--output',
    default='report.html',
    metavar='FILE',
    help='the page (%(default)s)',
  )
  options = parser.parse_args(arguments)
  try:
    parts = write_report(options.runs, options.output)
  except (OSError, ValueError) as error:
    parser.exit(1, f'error: {error}\n')
  count = sum(len(part.runs) for part in parts)
  size = os.path.getsize(options.output) / 1e6
  console.show(f'{options.output}: {plural(count, "run")}, {size:.1f} MB')
