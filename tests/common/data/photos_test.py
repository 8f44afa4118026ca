"""The embedded photos."""

import pytest

from common.data import photos


def test_embedded_photos():
  embedded = photos.embedded_photos()
  sizes = {name: photo.shape[:2] for name, photo in embedded.items()}
  assert sizes == {
    'astronaut': (512, 512),
    'chelsea': (300, 451),
    'china': (427, 640),
    'coffee': (400, 600),
    'flower': (427, 640),
    'motorcycle': (500, 741),
    'rocket': (427, 640),
  }
  assert photos.clean_photos().names == tuple(embedded)
  train, test = (set(photos.embedded_photos(s)) for s in ('train', 'test'))
  assert test == {'chelsea', 'china'} and train == set(embedded) - test
  with pytest.raises(ValueError, match="split = 'val'"):
    photos.embedded_photos('val')
