"""Pictures that are part of a page."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from common.report import pictures


def save(path, *shape):
  Image.fromarray(np.full(shape, 77, np.uint8)).save(path)
  return path


def decoded(picture):
  data = picture.url.removeprefix('data:image/png;base64,')
  return base64.b64decode(data)


@pytest.mark.parametrize('shape', [(5, 7, 3), (5, 7), (5, 7, 4)])
def test_small_ones_stay_as_they_are(tmp_path, shape):
  path = save(tmp_path / 'a.png', *shape)
  picture = pictures.embed(path)
  assert decoded(picture) == path.read_bytes()
  assert picture[1:] == (7, 5, None)


@pytest.mark.parametrize(
  ('shape', 'expected', 'mode'),
  [
    ((300, 2000, 3), (1000, 150), 'RGB'),
    ((30, 2000), (1000, 15), 'L'),
    ((30, 2000, 4), (1000, 15), 'RGBA'),
    ((8000, 1000), (707, 5656), 'L'),
    ((1, 5000), (1000, 1), 'L'),
  ],
)
def test_large_ones_are_shrunk(tmp_path, shape, expected, mode):
  picture = pictures.embed(save(tmp_path / 'a.png', *shape))
  opened = Image.open(io.BytesIO(decoded(picture)))
  assert opened.size == expected == (picture.width, picture.height)
  assert opened.mode == mode
  assert picture.original == (shape[1], shape[0])


def test_deep_ones_keep_their_brightness(tmp_path):
  path = tmp_path / 'a.png'
  Image.fromarray(np.full((4, 2000), 0x8000, np.uint16)).save(path)
  picture = pictures.embed(path)
  opened = np.asarray(Image.open(io.BytesIO(decoded(picture))).convert('L'))
  assert opened.shape == (2, 1000)
  np.testing.assert_allclose(opened, 128, atol=1)


@pytest.mark.parametrize('data', [b'', b'GIF89a', b'\x89PNG\r\n\x1a\n' + b'0'])
def test_damage_is_named(tmp_path, data):
  path = tmp_path / 'a.png'
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r'a\.png is no whole PNG picture'):
    pictures.embed(path)
