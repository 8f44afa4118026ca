import pickle

import numpy as np
import pytest
from PIL import Image

from common.data import transforms

BILINEAR, BICUBIC = transforms.FILTERS.values()


def _image(height=32, width=32, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(256, size=(height, width, 3), dtype=np.uint8)


def _example(*shape):
  return {'image': _image(*shape), 'label': np.int32(3)}


def _golden_view(image):
  return image[::5, ::5].transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize(
  'name, crop, interpolation',
  [('resnet18', 0.875, 'bilinear'), ('deit_tiny', 0.9, 'bicubic')],
)
def test_evaluation_equals_reference(golden, name, crop, interpolation):
  stored = golden('rsd/recipe.npz')
  transform = transforms.ResizeCentreCrop(224, crop, interpolation)
  image = transform({'image': stored['image']})['image']
  np.testing.assert_array_equal(
    _golden_view(image), stored[f'eval_{name}_every5th']
  )
  assert image.mean() == pytest.approx(float(stored[f'eval_{name}_mean']))


@pytest.mark.parametrize('name', ['bilinear', 'bicubic'])
def test_training_crop_equals_reference(golden, monkeypatch, name):
  stored = golden('rsd/recipe.npz')
  rectangle = tuple(stored['train_crop_top_left_height_width'])
  monkeypatch.setattr(
    transforms.RandomResizedCrop, 'rectangle', lambda *_: rectangle
  )
  crop = transforms.RandomResizedCrop(224, interpolation=name)
  image = crop({'image': stored['image']}, np.random.default_rng(0))['image']
  np.testing.assert_array_equal(
    _golden_view(image), stored[f'train_crop_{name}_every5th']
  )
  assert image.mean() == pytest.approx(float(stored[f'train_crop_{name}_mean']))


@pytest.mark.parametrize(
  'transform',
  [
    transforms.Resize(8),
    transforms.RandomResizedCrop(8),
    transforms.PadCrop(8, 2),
    transforms.HorizontalFlip(),
    transforms.Chain((transforms.Resize(8), transforms.HorizontalFlip())),
  ],
)
def test_random_transforms_follow_the_generator(transform):
  example = _example(16, 16)
  before = example['image'].copy()
  first, second = (transform(example, np.random.default_rng(5)) for _ in '12')
  np.testing.assert_array_equal(first['image'], second['image'])
  np.testing.assert_array_equal(example['image'], before)  # Not in place.
  assert first['label'] == 3
  assert first['image'].dtype == np.uint8
  assert pickle.loads(pickle.dumps(transform)) == transform


def test_evaluation_geometry():
  # 30 x 46 -> short side 20 -> 20 x 30.67 -> 20 x 30 -> central 16 x 16.
  image = _image(30, 46)
  transform = transforms.ResizeCentreCrop(16, 0.8)
  resized = Image.fromarray(image).resize((30, 20), BILINEAR)
  np.testing.assert_array_equal(
    transform({'image': image})['image'], np.asarray(resized)[2:18, 7:23]
  )
  # The same image on its side; Pillow rounds between its two passes.
  np.testing.assert_allclose(
    transform({'image': image.transpose(1, 0, 2)})['image'].astype(int),
    np.asarray(resized)[2:18, 7:23].transpose(1, 0, 2),
    atol=1,
  )


def test_evaluation_at_native_size_changes_nothing():
  image = _image()
  out = transforms.ResizeCentreCrop(32)({'image': image})['image']
  np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize(
  'size, crop, resized', [(224, 0.875, 256), (224, 0.9, 248), (224, 0.95, 235)]
)
def test_evaluation_resizes_to_the_floor(size, crop, resized, monkeypatch):
  sizes = []

  def record(image, height, width, _):
    sizes.append((height, width))
    return np.zeros((height, width, 3), np.uint8)

  monkeypatch.setattr(transforms, 'resize', record)
  transform = transforms.ResizeCentreCrop(size, crop)
  assert transform({'image': _image()})['image'].shape == (size, size, 3)
  assert sizes == [(resized, resized)]


def test_rectangles_have_the_published_distribution():
  rng = np.random.default_rng(0)
  crop = transforms.RandomResizedCrop(224)
  boxes = np.array([crop.rectangle(1000, 1000, rng) for _ in range(4000)])
  top, left, height, width = boxes.T
  assert (top >= 0).all() and (top + height <= 1000).all()
  assert (left >= 0).all() and (left + width <= 1000).all()
  area, ratio = height * width / 1e6, width / height
  assert 0.079 < area.min() < 0.09 and 0.95 < area.max() <= 1
  assert 0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.34
  # Small areas always fit, so there nothing is rejected: uniform area,
  # log-uniform ratio, uniform position.
  small = area < 0.5
  assert area[small].mean() == pytest.approx((0.08 + 0.5) / 2, abs=0.01)
  log_ratio = np.log(ratio[small])
  assert log_ratio.mean() == pytest.approx(0, abs=0.015)
  assert log_ratio.std() == pytest.approx(np.log(4 / 3) / 3**0.5, rel=0.05)
  for start, length in ((top, height), (left, width)):
    place = start[small] / (1000 - length[small])
    assert place.mean() == pytest.approx(0.5, abs=0.02)
    assert place.std() == pytest.approx(1 / 12**0.5, rel=0.05)


class _Script:
  """A generator whose uniform numbers are given, and whose integers maximal."""

  def __init__(self, *numbers):
    self.numbers = list(numbers)

  def uniform(self, low, high):
    return self.numbers.pop(0)

  def integers(self, high):
    return high - 1


def test_rectangle_by_hand():
  crop = transforms.RandomResizedCrop(224)
  # Area 512, ratio 1.2: height sqrt(426.7) = 20.7, width sqrt(614.4) = 24.8.
  assert crop.rectangle(32, 32, _Script(0.5, np.log(1.2))) == (11, 7, 21, 25)
  # The first draw is sqrt(1024 * 4 / 3) = 37 wide, the second fits.
  numbers = (1.0, np.log(4 / 3), 0.25, 0.0)
  assert crop.rectangle(32, 32, _Script(*numbers)) == (16, 16, 16, 16)


@pytest.mark.parametrize(
  'shape, box',
  [
    ((10, 100), (0, 43, 10, 13)),  # Too wide: ratio 4/3.
    ((100, 10), (43, 0, 13, 10)),  # Too high: ratio 3/4.
    ((10, 11), (0, 0, 10, 11)),  # Permitted ratio: all of it.
  ],
)
def test_fallback_is_central_with_clamped_ratio(shape, box):
  # Areas beyond the whole image never fit.
  crop = transforms.RandomResizedCrop(8, scale=(20.0, 20.0))
  assert crop.rectangle(*shape, np.random.default_rng(0)) == box


def test_one_pixel_image_can_be_cropped():
  crop = transforms.RandomResizedCrop(4)
  for seed in range(20):
    out = crop(_example(1, 1), np.random.default_rng(seed))['image']
    assert out.shape == (4, 4, 3) and (out == _image(1, 1)).all()


def test_random_filter_takes_both():
  image = _image(4, 4)
  crop = transforms.RandomResizedCrop(16, scale=(1.0, 1.0), ratio=(1.0, 1.0))
  expected = [
    transforms.resize(image, 16, 16, filter_) for filter_ in (BILINEAR, BICUBIC)
  ]
  rng = np.random.default_rng(0)
  outs = [crop({'image': image}, rng)['image'] for _ in range(400)]
  counts = [sum((out == e).all() for out in outs) for e in expected]
  assert sum(counts) == 400
  assert 150 < counts[0] < 250  # Five standard deviations.


def test_flip_mirrors_half_of_the_time():
  image = _image(4, 6)
  rng = np.random.default_rng(0)
  flips = 0
  for _ in range(400):
    out = transforms.HorizontalFlip()({'image': image}, rng)['image']
    flipped = np.array_equal(out, image[:, ::-1])
    assert flipped or np.array_equal(out, image)
    flips += flipped
  assert 150 < flips < 250
  for probability, same in ((0.0, True), (1.0, False)):
    out = transforms.HorizontalFlip(probability)({'image': image}, rng)['image']
    assert np.array_equal(out, image) == same


def test_pad_crop_shifts_evenly_and_pads_with_zeros():
  image = np.maximum(_image(6, 6), 1)  # No zeros of its own.
  padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
  windows = {
    padded[i : i + 6, j : j + 6].tobytes(): (i, j)
    for i in range(5)
    for j in range(5)
  }
  crop = transforms.PadCrop(6, padding=2)
  rng = np.random.default_rng(0)
  counts = np.zeros((5, 5), int)
  for _ in range(2500):
    out = crop({'image': image}, rng)['image']
    counts[windows[out.tobytes()]] += 1
  assert counts.min() > 50 and counts.max() < 150


def test_pad_crop_resizes_first():
  out = transforms.PadCrop(12, padding=0)(
    _example(6, 9), np.random.default_rng(0)
  )
  np.testing.assert_array_equal(
    out['image'], transforms.resize(_image(6, 9), 12, 12, BILINEAR)
  )


def test_resize_ignores_the_aspect_ratio():
  out = transforms.Resize(5, 'bicubic')(_example(6, 9), None)['image']
  expected = Image.fromarray(_image(6, 9)).resize((5, 5), BICUBIC)
  np.testing.assert_array_equal(out, np.asarray(expected))


def test_chain_applies_in_order():
  chain = transforms.Chain(
    (transforms.Resize(4), transforms.HorizontalFlip(probability=1.0))
  )
  np.testing.assert_array_equal(
    chain(_example(8, 8), np.random.default_rng(0))['image'],
    transforms.resize(_image(8, 8), 4, 4, BILINEAR)[:, ::-1],
  )


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: transforms.Resize(4, 'nearest'), r"'nearest'.*\['bilinear', 'bic"),
    (lambda: transforms.PadCrop(4, 1, 'cubic'), "interpolation 'cubic'"),
    (lambda: transforms.PadCrop(4, -1), 'padding = -1'),
    (lambda: transforms.RandomResizedCrop(4, scale=(0.5, 0.1)), 'scale = '),
    (lambda: transforms.RandomResizedCrop(4, ratio=(0.0, 1.0)), 'ratio = '),
    (
      lambda: transforms.ResizeCentreCrop(4, 1.0, 'random'),
      r"'random'; must be one of \['bilinear', 'bicubic'\]",
    ),
    (lambda: transforms.ResizeCentreCrop(4, 1.5), r'crop = 1.5 .*\(0, 1\]'),
  ],
)
def test_bad_settings_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
