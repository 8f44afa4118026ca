"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Gives the name of a file beside `path`, which takes its place at the end.

  If the block raises, `path` is as it was, and nothing is left beside it.

  Args:
    path: the file, whose folder must exist; one that is there is replaced.

  Yields:
    The path to write to.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f'.{path.name}.partial')
  try:
    yield partial
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
