import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from common.data import images


def _encode(image, kind='PNG', **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _decode(image, kind='PNG', **options):
  return images.decode_rgb(_encode(image, kind, **options), name='it')


@pytest.fixture
def photo():
  rng = np.random.default_rng(0)
  return Image.fromarray(rng.integers(256, size=(16, 24, 3), dtype=np.uint8))


def test_rgb_is_exact(photo):
  np.testing.assert_array_equal(_decode(photo), np.asarray(photo))


def test_file_is_read(photo, tmp_path):
  photo.save(tmp_path / 'it.png')
  np.testing.assert_array_equal(
    images.read_rgb(tmp_path / 'it.png'), np.asarray(photo)
  )


def test_grey_becomes_three_equal_channels():
  grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
  np.testing.assert_array_equal(
    _decode(Image.fromarray(grey)), np.stack([grey] * 3, axis=-1)
  )


def test_16_bit_grey_keeps_its_range():
  grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
  decoded = _decode(Image.fromarray(grey))
  np.testing.assert_array_equal(decoded[0, :, 0], [0, 0, 1, 128, 255])


def test_palette_becomes_its_colours(photo):
  palette = photo.quantize(8)
  np.testing.assert_array_equal(
    _decode(palette), np.asarray(palette.convert('RGB'))
  )


def test_cmyk_becomes_rgb():
  cyan = Image.new('CMYK', (8, 8), (255, 0, 0, 0))
  assert np.abs(_decode(cyan, 'JPEG').astype(int) - [0, 255, 255]).max() < 6


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_transparent_pixels_are_white(mode):
  rgba = np.zeros((1, 2, 4), np.uint8)
  rgba[0, 1] = (0, 0, 0, 255)  # Black and opaque, beside black and clear.
  decoded = _decode(Image.fromarray(rgba).convert(mode))
  np.testing.assert_array_equal(decoded, [[[255] * 3, [0] * 3]])


def test_orientation_mark_is_applied(photo):
  exif = Image.Exif()
  exif[0x0112] = 6  # Turn clockwise by a quarter to show.
  np.testing.assert_array_equal(
    _decode(photo, exif=exif), np.rot90(np.asarray(photo), k=-1)
  )


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'BMP', 'WEBP'])
@pytest.mark.parametrize('lenient', [False, True])
def test_truncated_image_is_an_error(photo, kind, lenient, monkeypatch):
  monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', lenient)
  encoded = _encode(photo, kind)
  with pytest.raises(ValueError, match='the photo cannot be decoded'):
    images.decode_rgb(encoded[: len(encoded) * 3 // 4], name='the photo')


@pytest.mark.parametrize('content', [b'', b'no image at all'])
def test_not_an_image_is_an_error(content, tmp_path):
  path = tmp_path / 'it.png'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r'it\.png cannot be decoded'):
    images.read_rgb(path)


def test_absent_file_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r'it\.png cannot be read'):
    images.read_rgb(tmp_path / 'it.png')


def test_unknown_range_is_an_error():
  with pytest.raises(ValueError, match='mode F have no known range'):
    _decode(Image.new('F', (2, 2)), 'TIFF')
