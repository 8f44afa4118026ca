"""Pictures that are part of a page: bounded in size, and encoded."""

import base64
import io
import math
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_WIDTH = 1_000
_MAX_PIXELS = 4_000_000


class Embedded(NamedTuple):
  """A picture as a page holds it.

  Attributes:
    url: `data:` URL.
    width: in pixels; 0 for a drawing that has none.
    height: in pixels; 0 for a drawing that has none.
    original: width and height of the file, where the picture is shrunk.
  """

  url: str
  width: int
  height: int
  original: tuple[int, int] | None


def embed(path: pathlib.Path) -> Embedded:
  """Reads a picture, and shrinks it to 1,000 pixels of width if need be.

  Args:
    path: of a .png or .svg. The bytes of those that are small enough stay as
      they are.

  Returns:
    The picture. A tall one is shrunk to 4 million pixels, too.

  Raises:
    OSError: the file cannot be read.
    ValueError: the file is damaged.
  """
  data = path.read_bytes()
  if path.suffix.lower() == '.svg':
    if b'<svg' not in data:
      raise ValueError(f'{path} is no SVG picture')
    return Embedded(_url('image/svg+xml', data), 0, 0, None)
  try:
    with Image.open(io.BytesIO(data), formats=['PNG']) as picture:
      picture.load()
      size = picture.size
      factor = min(
        1.0,
        MAX_WIDTH / size[0],
        math.sqrt(_MAX_PIXELS / (size[0] * size[1])),
      )
      if factor == 1:
        return Embedded(_url('image/png', data), *size, None)
      small = _in_8_bits(picture).resize(
        (max(1, int(size[0] * factor)), max(1, int(size[1] * factor))),
        Image.Resampling.LANCZOS,
      )
  # Pillow tells of damage in many ways.
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    raise ValueError(f'{path} is no whole PNG picture: {e}') from e
  file = io.BytesIO()
  small.save(file, 'PNG', optimize=True)
  return Embedded(_url('image/png', file.getvalue()), *small.size, size)


def _in_8_bits(picture: Image.Image) -> Image.Image:
  """Grey, RGB or RGBA of 8 bits."""
  if picture.mode.startswith('I'):  # 16 bits, which Pillow would cut off.
    return Image.fromarray(np.uint8(np.asarray(picture) // 257))
  kept = picture.mode if picture.mode in ('L', 'LA', 'RGB') else 'RGBA'
  return picture.convert(kept)


def _url(kind: str, data: bytes) -> str:
  return f'data:{kind};base64,{base64.b64encode(data).decode()}'
