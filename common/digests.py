"""Sizes and checksums of checkpoints, to know a damaged one."""

import json
import pathlib
import threading
import zlib
from typing import Any

import jax

from common.whole_files import written_whole


class Digests:
  """Sizes and checksums of the files of checkpoints, by step."""

  def __init__(self, folder: pathlib.Path):
    """Of the checkpoints in `folder`; they are kept beside it."""
    self._folder = folder
    self._path = folder.parent / 'digests.json'

  def record(self, step: int) -> None:
    """Writes down what the files of a checkpoint are, and forgets old steps."""
    kept = {
      key: files
      for key, files in self._read().items()
      if (self._folder / key).is_dir()
    }
    kept[str(step)] = self._files(step)
    with written_whole(self._path) as path:
      path.write_text(json.dumps(kept))

  def damage(self, step: int) -> str | None:
    """What is wrong with the files of a checkpoint, or None.

    A process that dies right after a save leaves no digest; nothing is known
    of such a checkpoint before it is read.
    """
    expected = self._read().get(str(step))
    if expected is None:
      return None
    try:
      found = self._files(step)
    except OSError as error:
      return str(error)
    for name, (size, checksum) in expected.items():
      if name not in found:
        return f'{name} is missing'
      if found[name][0] != size:
        return f'{name} has {found[name][0]} bytes, not {size}'
      if found[name][1] != checksum:
        return f'{name} has other contents than were saved'
    return None

  def _files(self, step: int) -> dict[str, list[int]]:
    folder = self._folder / str(step)
    files = {}
    for path in sorted(folder.rglob('*')):
      if path.is_file():
        size, checksum = 0, 0
        with path.open('rb') as file:
          while part := file.read(2**22):
            size, checksum = size + len(part), zlib.crc32(part, checksum)
        files[str(path.relative_to(folder))] = [size, checksum]
    return files

  def _read(self) -> dict[str, Any]:
    try:
      return json.loads(self._path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
      return {}


class Saving:
  """A save under way, in a thread that writes down its digest at the end."""

  def __init__(self, step: int, response: Any, digests: Digests):
    """Takes Orbax's response to an asynchronous save."""
    self.step = step
    self._error: BaseException | None = None

    def finish() -> None:
      try:
        response.result()
        if jax.process_index() == 0:
          digests.record(step)
      except BaseException as error:
        self._error = error

    self._thread = threading.Thread(target=finish, name=f'save {step}')
    self._thread.start()

  def result(self) -> None:
    """Waits, and raises what went wrong."""
    self._thread.join()
    if self._error is not None:
      raise self._error
