"""Depth, alpha, orientation, grey and profile go through; bad files do not."""

import numpy as np
import png
import pytest
import tifffile
from PIL import Image

from common.data import picture_files

RNG = np.random.default_rng(0)


def save(path, array, **options):
  Image.fromarray(array).save(path, **options)
  return path


@pytest.mark.parametrize('suffix', ['.png', '.tif', '.bmp', '.ppm'])
@pytest.mark.parametrize('shape', [(5, 7), (5, 7, 3), (1, 1, 3), (1, 99, 3)])
def test_pixels_come_back(tmp_path, suffix, shape):
  array = RNG.integers(0, 256, shape, dtype=np.uint8)
  path = save(tmp_path / f'ein Bild ☂{suffix}', array)
  picture = picture_files.read(path)
  assert picture.pixels.shape == (*shape[:2], 3)
  assert picture.pixels.dtype == np.float32 and picture.depth == 8
  # PPM is never grey.
  assert picture.grey == (len(shape) == 2)
  picture_files.write(tmp_path / f'out{suffix}', picture.pixels, picture)
  np.testing.assert_array_equal(Image.open(tmp_path / f'out{suffix}'), array)
  assert len([*tmp_path.iterdir()]) == 2  # Nothing half-written is left.


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_deep_png(tmp_path, channels):
  array = RNG.integers(0, 65536, (4, 6, channels), dtype=np.uint16)
  kind = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}[channels]
  png.from_array(array.reshape(4, -1), f'{kind};16').save(tmp_path / 'a.png')
  picture = picture_files.read(tmp_path / 'a.png')
  assert picture.depth == 16
  picture_files.write(tmp_path / 'b.png', picture.pixels, picture)
  width, height, rows, info = png.Reader(str(tmp_path / 'b.png')).read()
  back = np.stack([np.asarray(row) for row in rows]).reshape(4, 6, channels)
  assert info['bitdepth'] == 16 and (width, height) == (6, 4)
  np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize('shape', [(4, 6, 3), (1, 1, 3), (1, 6, 3), (4, 1, 3)])
def test_deep_tiff(tmp_path, shape):
  array = RNG.integers(0, 65536, shape, dtype=np.uint16)
  tifffile.imwrite(tmp_path / 'a.tif', array)
  picture = picture_files.read(tmp_path / 'a.tif')
  picture_files.write(tmp_path / 'b.tif', picture.pixels, picture)
  with tifffile.TiffFile(tmp_path / 'b.tif') as written:
    assert written.pages[0].shape == shape
  np.testing.assert_array_equal(
    tifffile.imread(tmp_path / 'b.tif').reshape(shape), array
  )
  # Elsewhere 16 bits are rounded to 8.
  picture_files.write(tmp_path / 'b.bmp', picture.pixels, picture)
  shallow = np.asarray(Image.open(tmp_path / 'b.bmp'), np.float64)
  np.testing.assert_allclose(shallow, array / 257, atol=0.51)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(tmp_path, orientation):
  array = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = save(tmp_path / 'a.png', array, exif=exif)
  picture = picture_files.read(path)
  upright = (6, 4) if orientation > 4 else (4, 6)
  assert picture.pixels.shape == (*upright, 3)
  picture_files.write(tmp_path / 'b.png', picture.pixels, picture)
  with Image.open(tmp_path / 'b.png') as image:
    np.testing.assert_array_equal(image, array)
    assert image.getexif()[0x0112] == orientation


def test_alpha_and_profile(tmp_path):
  array = RNG.integers(0, 256, (4, 6, 4), dtype=np.uint8)
  path = save(tmp_path / 'a.png', array, icc_profile=b'profile', dpi=(72, 72))
  picture = picture_files.read(path)
  for name in ('b.png', 'b.webp', 'b.jpg'):
    picture_files.write(tmp_path / name, picture.pixels, picture)
  with Image.open(tmp_path / 'b.png') as image:
    np.testing.assert_array_equal(image, array)
    assert image.info['icc_profile'] == b'profile'
  assert Image.open(tmp_path / 'b.webp').mode == 'RGBA'
  assert Image.open(tmp_path / 'b.jpg').mode == 'RGB'


@pytest.mark.parametrize('mode', ['P', 'CMYK', '1', 'LA'])
def test_other_modes(tmp_path, mode):
  suffix = '.tif' if mode == 'CMYK' else '.png'
  image = Image.fromarray(RNG.integers(0, 256, (9, 8, 3), dtype=np.uint8))
  image.convert(mode).save(tmp_path / f'a{suffix}')
  picture = picture_files.read(tmp_path / f'a{suffix}')
  expected = np.asarray(image.convert(mode).convert('RGB')) / 255
  np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)
  assert (picture.alpha is not None) == (mode == 'LA')


def test_a_wrong_ending_does_not_matter(tmp_path):
  array = np.full((4, 6, 3), 7, np.uint8)
  save(tmp_path / 'a.png', array, format='BMP')
  picture = picture_files.read(tmp_path / 'a.png')
  np.testing.assert_allclose(picture.pixels, 7 / 255, rtol=1e-6)


def bomb(path):
  """A header of 20,000 x 20,000 pixels."""
  save(path, np.zeros((1, 1), np.uint8))
  data = bytearray(path.read_bytes())
  data[16:24] = (20_000).to_bytes(4) * 2
  import zlib

  data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
  path.write_bytes(bytes(data))


def truncated(path):
  save(path, RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8))
  path.write_bytes(path.read_bytes()[:-500])


def animated(path):
  frames = [Image.new('RGB', (4, 4), colour) for colour in ('red', 'blue')]
  frames[0].save(path, format='GIF', save_all=True, append_images=frames[1:])


def loop(path):
  path.symlink_to(path)


HOSTILE = {
  bomb: 'exceeds limit',
  truncated: 'cannot be read',
  animated: 'it has 2 frames',
  loop: 'cannot be read',
  lambda path: path.write_bytes(b''): 'it is in no format of images',
  lambda path: path.write_text('hello'): 'it is in no format of images',
  lambda path: path.mkdir(): 'Is a directory',
  lambda path: None: 'No such file',
}


@pytest.mark.parametrize('make', HOSTILE)
def test_hostile_files(tmp_path, make):
  path = tmp_path / 'böse Datei.png'
  make(path)
  with pytest.raises(ValueError, match=f'böse Datei.png.*{HOSTILE[make]}'):
    picture_files.read(path)


def test_what_cannot_be_written(tmp_path):
  pixels = np.zeros((2, 2, 3), np.float32)
  picture = picture_files.Picture(pixels)
  with pytest.raises(ValueError, match=r'a.gif must end in one of .bmp'):
    picture_files.write(tmp_path / 'a.gif', pixels, picture)
  with pytest.raises(ValueError, match=r'\[3, 2, 3\] must be as large as'):
    picture_files.write(tmp_path / 'a.png', np.zeros((3, 2, 3)), picture)
