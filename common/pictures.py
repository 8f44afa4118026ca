"""Pictures of a run: grids of examples, and what an evaluation has restored."""

import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from common import figures

# Of name, degraded, restored and clean image [h, w, c].
Watch = Callable[[str, np.ndarray, np.ndarray, np.ndarray], None]

EXAMPLES = 4  # Rows of a grid.
_SMALLEST, _LARGEST = 64, 256  # Side of a picture in a grid, in pixels.
_WHOLE = 1024  # Side of a picture by itself.
_GAP = 2


def grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  """Lays pictures out in rows, white between them.

  Tiny pictures are shown with larger pixels, and of large ones the middle.

  Args:
    rows: the pictures of each row, RGB or grey: [h, w, 3] or [h, w, 1], uint8
      in 0..255 or float, of which what leaves [0, 1] is cut off.

  Returns:
    RGB, uint8 [h, w, 3].
  """
  cells = [[_cell(picture) for picture in row] for row in rows]
  height, width = (
    max(cell.shape[axis] for row in cells for cell in row) + _GAP
    for axis in (0, 1)
  )
  columns = max(len(row) for row in cells)
  sheet = np.full(
    (len(cells) * height + _GAP, columns * width + _GAP, 3), 255, np.uint8
  )
  for i, row in enumerate(cells):
    for j, cell in enumerate(row):
      top, left = i * height + _GAP, j * width + _GAP
      sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
  return sheet


def rgb(picture: np.ndarray) -> np.ndarray:
  """RGB, uint8 [h, w, 3], of a picture as `grid` takes it."""
  if picture.dtype.kind == 'f':
    picture = np.rint(255 * picture.clip(0, 1)).astype(np.uint8)
  return np.broadcast_to(picture, (*picture.shape[:2], 3))


class Restorations:
  """The first pictures that an evaluation restores, to be shown.

  An evaluation makes them anyway, so showing them costs nothing. Where several
  processes share the pictures, these are the first ones of this process.
  """

  def __init__(self, groups: int = 1):
    """Keeps nothing yet.

    Args:
      groups: kinds of test pictures (sets, strengths of noise), of which each
        gives as many pictures.
    """
    self._of_each = max(1, EXAMPLES // groups)
    self.clear()

  def clear(self) -> None:
    """Forgets all, before the next evaluation."""
    self._shown: dict[str, tuple[np.ndarray, ...]] = {}
    self._counts: dict[str, int] = {}

  def of_group(self, group: str) -> Watch:
    """What an evaluation of one kind of pictures calls for each of them."""

    def add(name: str, *images: np.ndarray) -> None:
      count = self._counts.get(group, 0)
      if count < self._of_each and len(self._shown) < EXAMPLES:
        self._counts[group] = count + 1
        plain = re.sub(r'[^\w.-]+', '_', str(pathlib.PurePath(name).stem))
        key = '_'.join(filter(None, [group, plain]))
        self._shown[key] = tuple(figures.middle(x, _WHOLE) for x in images)

    return add

  def pictures(self) -> dict[str, np.ndarray]:
    """For `MetricWriter.write_pictures`.

    Returns:
      `restored`, with a row of input, restored and target for each picture, and
      each picture before and after by itself.
    """
    if not self._shown:
      return {}
    found = {'restored': grid([*self._shown.values()])}
    for name, (before, after, _) in self._shown.items():
      found[f'before_after/{name}_before'] = rgb(before)
      found[f'before_after/{name}_after'] = rgb(after)
    return found


def _cell(picture: np.ndarray) -> np.ndarray:
  picture = rgb(figures.middle(picture, _LARGEST))
  times = -(-_SMALLEST // max(picture.shape[:2]))
  return picture.repeat(times, axis=0).repeat(times, axis=1)
