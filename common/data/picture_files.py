"""Pictures with what their files hold beside colours, read and written back.

Depth of 8 or 16 bits, transparency, grey, the camera's orientation mark and
colour profile survive. `images` is the plainer reader, for training.
"""

import dataclasses
import io
import os
import pathlib
from typing import Any

import numpy as np
import png
import tifffile
from PIL import Image, ImageFile, ImageOps

from common.data import images
from common.whole_files import written_whole

# Formats that can be written without loss of colours, by file name ending.
WRITABLE = {
  '.bmp': 'BMP',
  '.jpeg': 'JPEG',
  '.jpg': 'JPEG',
  '.png': 'PNG',
  '.ppm': 'PPM',
  '.tif': 'TIFF',
  '.tiff': 'TIFF',
  '.webp': 'WEBP',
}
_DEEP_FORMATS = ('PNG', 'TIFF')
_ORIENTATION = 0x0112  # The tag in EXIF.
# What undoes each orientation mark, in terms of `ImageOps.exif_transpose`.
_UNDO = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_90,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_270,
}


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture as it is looked at: upright.

  Attributes:
    pixels: RGB in [0, 1], float32 [h, w, 3].
    alpha: opacity in [0, 1], float32 [h, w], or None.
    depth: bits of a channel, 8 or 16.
    grey: whether the file has one channel of colour.
    orientation: EXIF's mark, 1..8: how the file's pixels lie.
    extras: other things to write back, as Pillow names them.
  """

  pixels: np.ndarray
  alpha: np.ndarray | None = None
  depth: int = 8
  grey: bool = False
  orientation: int = 1
  extras: dict[str, Any] = dataclasses.field(default_factory=dict)


def read(path: str | os.PathLike[str]) -> Picture:
  """Reads a picture.

  Args:
    path: a file of any format that Pillow knows, whatever its name.

  Returns:
    The picture. Palettes and CMYK become RGB.

  Raises:
    ValueError: the file is absent, cut off, no image, an animation, or claims
      to be larger than Pillow thinks safe; names the file.
  """
  path = pathlib.Path(path)
  ImageFile.LOAD_TRUNCATED_IMAGES = False  # As in `images.decode_rgb`.
  try:
    encoded = path.read_bytes()
    with Image.open(io.BytesIO(encoded)) as image:
      frames = getattr(image, 'n_frames', 1)
      if frames > 1:
        raise ValueError(f'it has {frames} frames; give them one by one')
      image.load()
      return _picture(image, encoded)
  except Exception as error:  # Pillow's decoders raise a dozen types.
    reason = images.reason_of(error)
    raise ValueError(f'{path} cannot be read: {reason}') from error


def write(
  path: str | os.PathLike[str], pixels: np.ndarray, like: Picture
) -> None:
  """Writes pixels as another picture was, whole or not at all.

  Args:
    path: the file; the format is that of its ending. 16 bits need PNG or
      TIFF, and are rounded to 8 elsewhere.
    pixels: RGB around [0, 1], float [h, w, 3], upright; clipped.
    like: what gives alpha, depth, grey, orientation and extras. JPEG has no
      alpha.

  Raises:
    ValueError: no such format, or the sizes differ.
    OSError: the file cannot be written.
  """
  path = pathlib.Path(path)
  if (file_format := WRITABLE.get(path.suffix.lower())) is None:
    raise ValueError(
      f'{path} must end in one of {", ".join(WRITABLE)} to be written'
    )
  if pixels.shape != like.pixels.shape:
    raise ValueError(
      f'pixels {list(pixels.shape)} must be as large as the picture '
      f'{list(like.pixels.shape)}'
    )
  channels = [pixels.mean(-1, keepdims=True)] if like.grey else [pixels]
  if like.alpha is not None and file_format != 'JPEG':
    channels.append(like.alpha[..., None])
  deep = like.depth == 16 and file_format in _DEEP_FORMATS
  top = 65535 if deep else 255
  values = np.concatenate(channels, axis=-1).clip(0, 1) * top
  whole = np.rint(values).astype(np.uint16 if deep else np.uint8)
  whole = _turned_back(whole, like.orientation)
  plane = whole[..., 0] if whole.shape[-1] == 1 else whole
  with written_whole(path) as partial:
    if not deep:
      image = Image.fromarray(plane)
      quality = {'quality': 95} if file_format in ('JPEG', 'WEBP') else {}
      image.save(partial, format=file_format, **quality, **like.extras)
    elif file_format == 'PNG':
      _write_deep_png(partial, whole)
    else:
      tifffile.imwrite(partial, plane)


def _picture(image: Image.Image, encoded: bytes) -> Picture:
  exif = image.getexif()
  orientation = exif.get(_ORIENTATION, 1)
  if orientation not in _UNDO:
    orientation = 1
  extras: dict[str, Any] = {}
  if exif:
    extras['exif'] = exif.tobytes()
  for key in ('icc_profile', 'dpi'):
    if key in image.info:
      extras[key] = image.info[key]
  values = _deep_values(image, encoded)
  if values is None:
    values = _shallow_values(image)
  top = np.iinfo(values.dtype).max
  # Files hold pixels as they lie; what is looked at is turned.
  values = _upright(values, orientation)
  scaled = (values / np.float32(top)).astype(np.float32)
  count = scaled.shape[-1]
  grey = count < 3
  colours = scaled[..., :1].repeat(3, axis=-1) if grey else scaled[..., :3]
  return Picture(
    pixels=np.ascontiguousarray(colours),
    alpha=scaled[..., -1] if count in (2, 4) else None,
    depth=16 if values.dtype == np.uint16 else 8,
    grey=grey,
    orientation=orientation,
    extras=extras,
  )


def _deep_values(image: Image.Image, encoded: bytes) -> np.ndarray | None:
  """Pixels of 16 bits, uint16 [h, w, channels], which Pillow cuts to 8."""
  values = None
  if image.format == 'PNG':
    width, height, rows, info = png.Reader(bytes=encoded).read()
    if info['bitdepth'] == 16:
      flat = np.stack([np.asarray(row, np.uint16) for row in rows])
      values = flat.reshape(height, width, info['planes'])
  elif image.format == 'TIFF':
    page = tifffile.TiffFile(io.BytesIO(encoded)).pages[0]
    if page.dtype == np.uint16:
      values = page.asarray()
      values = values.reshape(*values.shape[:2], -1)
  elif image.mode.startswith('I;16'):
    values = np.asarray(image)[..., None]
  if values is None and image.mode in ('I', 'F'):
    raise ValueError(f'pixels of mode {image.mode} have no known range')
  if values is not None and values.shape[-1] > 4:
    raise ValueError(f'it has {values.shape[-1]} channels')
  return values


def _shallow_values(image: Image.Image) -> np.ndarray:
  """Pixels of 8 bits, uint8 [h, w, channels]."""
  alpha = image.has_transparency_data
  grey = image.mode in ('1', 'L', 'LA')
  mode = ('LA' if alpha else 'L') if grey else ('RGBA' if alpha else 'RGB')
  values = np.asarray(image.convert(mode))
  return values.reshape(*values.shape[:2], -1)


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
  """Pixels as they are looked at, [h, w, channels]."""
  if orientation == 1:
    return values
  # Pillow knows the way; it is asked where each pixel goes.
  return _along(values, orientation, undo=False)


def _turned_back(values: np.ndarray, orientation: int) -> np.ndarray:
  """Pixels as they lie in a file with this mark."""
  return values if orientation == 1 else _along(values, orientation, undo=True)


def _along(values: np.ndarray, orientation: int, *, undo: bool) -> np.ndarray:
  numbers = np.arange(values.shape[0] * values.shape[1], dtype=np.int32)
  index = Image.fromarray(numbers.reshape(values.shape[:2]))
  if undo:
    moved = index.transpose(_UNDO[orientation])
  else:
    index.getexif()[_ORIENTATION] = orientation
    moved = ImageOps.exif_transpose(index)
  order = np.asarray(moved)
  return values.reshape(-1, values.shape[-1])[order]


def _write_deep_png(path: pathlib.Path, values: np.ndarray) -> None:
  height, width, channels = values.shape
  writer = png.Writer(
    width, height, bitdepth=16, greyscale=channels < 3, alpha=channels in (2, 4)
  )
  with path.open('wb') as file:
    writer.write(file, values.reshape(height, -1))
