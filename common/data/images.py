"""From image files to RGB arrays."""

import io
import os
import pathlib

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset(
  ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
)


def read_rgb(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads an image file.

  Args:
    path: file in any of the formats of `SUFFIXES`.

  Returns:
    RGB in 0..255, uint8 [height, width, 3], as `decode_rgb` describes.

  Raises:
    ValueError: the file is absent, truncated or not an image; names the file.
  """
  try:
    encoded = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error}') from error
  return decode_rgb(encoded, name=str(path))


def decode_rgb(encoded: bytes, *, name: str) -> np.ndarray:
  """Decodes the bytes of an image file.

  The camera's orientation mark is applied, grey becomes three equal channels,
  16-bit grey keeps its upper 8 bits, and transparent pixels are laid on white.

  Args:
    encoded: the content of a file.
    name: what error messages call it.

  Returns:
    RGB in 0..255, uint8 [height, width, 3].

  Raises:
    ValueError: the bytes are truncated or not an image; names the image.
  """
  # This switch of Pillow is process-wide. Some libraries turn it on, and then
  # the missing part of a truncated file silently becomes grey.
  ImageFile.LOAD_TRUNCATED_IMAGES = False
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
  # Pillow's decoders raise errors of a dozen types on damaged files, and some
  # have no text. None is swallowed: each comes out with the name.
  except Exception as error:
    raise ValueError(
      f'{name} cannot be decoded as an image: {reason_of(error)}'
    ) from error


def reason_of(error: Exception) -> str:
  """What an error of Pillow's readers says, for people."""
  if isinstance(error, UnidentifiedImageError):  # Its text is an address.
    return 'it is in no format of images'
  return str(error) or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith('I;16'):
    grey = (np.asarray(image) >> 8).astype(np.uint8)
    return Image.fromarray(grey).convert('RGB')
  if image.mode in ('I', 'F'):
    raise ValueError(f'pixels of mode {image.mode} have no known range')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return image.convert('RGB')
