import pickle

import numpy as np
import pytest
from PIL import Image

from common.data import derain_sets, images, rain


def save(root, name, colour):
  """A picture, or with two colours two of them side by side."""
  path = root / name
  path.parent.mkdir(parents=True, exist_ok=True)
  colours = np.array(colour, np.uint8).reshape(1, -1, 1)
  pixels = np.repeat(np.tile(colours, (8, 1, 3)), 8, axis=1)
  Image.fromarray(pixels).save(path)


def check(source, expected):
  """Compares names, and the grey levels of input and target."""
  source = pickle.loads(pickle.dumps(source))
  assert source.names == tuple(expected)
  for index, levels in enumerate(expected.values()):
    example = source[index]
    for key, level in zip(('input', 'target'), levels, strict=True):
      assert example[key].shape == (8, 8, 3) and example[key].dtype == np.uint8
      # JPEG keeps a grey level of whole blocks to within one step.
      np.testing.assert_allclose(example[key], level, atol=1)


def numbered(root, rainy, clean, numbers, variants=('',)):
  """Saves pairs of levels 100 + number and number; says what is expected."""
  expected = {}
  for number in numbers:
    save(root, clean.format(number), number)
    for extra, variant in enumerate(variants):
      name = rainy.format(number, variant)
      save(root, name, 100 + number + 10 * extra)
      expected[name.split('/')[-1]] = (100 + number + 10 * extra, number)
  return expected


@pytest.mark.parametrize(
  'name', ['rain200l', 'rain200h', 'rain100l', 'rain100h', 'rain800']
)
@pytest.mark.parametrize(
  'rainy, clean',
  [
    ('rain/X2/norain-{}x2.png', 'norain/norain-{}.png'),
    ('rain/norain-{}x2.png', 'norain/norain-{}.png'),
    ('rain/rain-{:03d}.png', 'norain/norain-{:03d}.png'),
    ('rain/{:03d}.png', 'norain/{:03d}.png'),
  ],
)
def test_two_folders(tmp_path, name, rainy, clean):
  # The order of numbers, not of letters.
  expected = numbered(tmp_path / 'train', rainy, clean, (9, 11))
  numbered(tmp_path / 'test', rainy, clean, (3,))
  check(derain_sets.published_set(name, tmp_path, split='train'), expected)
  test = derain_sets.published_set(name, tmp_path, split='test')
  assert len(test) == 1
  # A folder of one split alone.
  train = tmp_path / 'train'
  check(derain_sets.published_set(name, train, split=None), expected)


@pytest.mark.parametrize(
  'name, left', [('did', 'input'), ('rain800', 'target')]
)
@pytest.mark.parametrize('split', ['train', 'test'])
def test_side_by_side(tmp_path, name, left, split):
  for number in (2, 10):
    save(tmp_path, f'{split}/{number}.jpg', [number, 100 + number])
  expected = {
    f'{number}.jpg': (number, 100 + number)[:: 1 if left == 'input' else -1]
    for number in (2, 10)
  }
  check(derain_sets.published_set(name, tmp_path, split=split), expected)
  source = derain_sets.published_set(name, tmp_path / split, split=None)
  check(source, expected)


@pytest.mark.parametrize('name', ['ddn', 'rain1400'])
def test_fourteen_rains(tmp_path, name):
  expected = numbered(
    tmp_path / 'test',
    'rain/{}_{}.jpg',
    'norain/{}.jpg',
    (1, 7),
    variants=range(1, 15),
  )
  source = derain_sets.published_set(name, tmp_path, split='test')
  assert len(source) == 28
  check(source, expected)


def test_spa(tmp_path):
  expected = {}
  for scene, clip, column, level in (
    ('000', '0', 0, 1),
    ('000', '0', 3, 2),
    ('000', '12', 3, 3),
    ('007', '1', 3, 4),
  ):
    rainy = f'{scene}-{clip}_{column}_12.png'
    save(tmp_path, f'real_world/{scene}/{scene}-{clip}/{rainy}', 100 + level)
    clean = 10 * int(scene) + column
    save(tmp_path, f'real_world_gt/{scene}/{scene}_{column}_12.png', clean)
    expected[rainy] = (100 + level, clean)
  # No picture of these: notes, hidden files, and clean ones without rain.
  (tmp_path / 'real_world' / '000' / '000-0' / '._a.png').write_bytes(b'')
  (tmp_path / 'real_world' / '000' / 'list.txt').write_text('')
  save(tmp_path, 'real_world_gt/009/009_0_0.png', 0)
  expected_test = numbered(
    tmp_path / 'real_test_1000', 'rain/{:03d}.png', 'gt/{:03d}gt.png', (0, 1)
  )
  source = derain_sets.published_set('spa', tmp_path, split='train')
  check(source, expected)
  source = derain_sets.published_set('spa', tmp_path, split='test')
  check(source, expected_test)
  with pytest.raises(ValueError, match='spa has one layout for each split'):
    derain_sets.published_set('spa', tmp_path, split=None)


def test_damaged_spa(tmp_path):
  for folder in ('real_world', 'real_world_gt'):
    (tmp_path / folder).mkdir()
  with pytest.raises(ValueError, match='real_world has no images in folders'):
    derain_sets.published_set('spa', tmp_path, split='train')
  save(tmp_path, 'real_world/1/1-2/1-2_3_4.png', 0)
  with pytest.raises(
    ValueError, match=r'1 files have no .*_gt, the first is .*1-2_3_4\.png'
  ):
    derain_sets.published_set('spa', tmp_path, split='train')
  save(tmp_path, 'real_world/1/1-2/cover.png', 0)
  with pytest.raises(ValueError, match=r'cover\.png does not end in _X_Y'):
    derain_sets.published_set('spa', tmp_path, split='train')


@pytest.mark.parametrize(
  'name, message',
  [
    (
      'rain800',
      r'^rain800 expects images in .*test/rain/X2 and .*test/norain, or in '
      r'.*test/rain and .*test/norain, or in .*test$',
    ),
    ('did', r'did expects images in .*test$'),
    ('spa', r'spa expects images in .*1000/rain and .*1000/gt$'),
  ],
)
def test_other_layouts_are_refused(tmp_path, name, message):
  (tmp_path / 'test' / 'clean').mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match=message):
    derain_sets.published_set(name, tmp_path, split='test')


def test_own_pairs(tmp_path):
  expected = numbered(tmp_path, 'drops/train/a{}.png', 'dry/a{}.png', (1, 2))
  source = derain_sets.own_pairs(
    tmp_path, split='train', input_folder='drops/{split}', target_folder='dry'
  )
  check(source, expected)
  source = derain_sets.own_pairs(
    tmp_path,
    split=None,
    input_folder='{split}/drops/train',
    target_folder='dry',
    input_pattern=r'a(\d)\.png',
    target_pattern=r'a(\d)\.png',
  )
  check(source, expected)
  with pytest.raises(FileNotFoundError, match=r'no folder .*test/rain'):
    derain_sets.own_pairs(tmp_path, split='test')


def test_photos():
  source = derain_sets.rainy_photos(split='test', preset='fine', variants=2)
  assert len(source) == 4
  assert source.names[:2] == ('chelsea (rain 1)', 'chelsea (rain 2)')
  first, second, other = source[0], source[1], source[2]
  assert first['target'].shape == (300, 451, 3)
  np.testing.assert_array_equal(first['target'], second['target'])
  assert (first['input'] != second['input']).any()
  assert other['target'].shape == (427, 640, 3)
  # The rain of the test split is that of the next seed.
  expected = rain.render_rain(
    first['target'], rain.PRESETS['fine'], np.random.default_rng((1, 0, 0))
  )
  np.testing.assert_array_equal(first['input'], expected)
  with pytest.raises(ValueError, match=r"preset 'hail' must be one of"):
    derain_sets.rainy_photos(split='train', preset='hail')


def test_any_set_by_name(tmp_path):
  expected = numbered(tmp_path, 'rain/{}.png', 'norain/{}.png', (1,))
  for name in ('rain200l', 'pairs'):
    check(derain_sets.open_set(name, split=None, folder=tmp_path), expected)
  source = derain_sets.open_set('photos', split='test', preset='heavy')
  assert source.names == ('chelsea', 'china')


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('rain13k', {}, r"set 'rain13k' must be one of \['rain200l', .*'photos'\]"),
    ('did', {}, r"did: missing .*'folder'; the options are \['folder'\]"),
    (
      'photos',
      {'folder': '.'},
      r"photos: .*'folder'; the options are \['preset', 'rain_seed', 'var",
    ),
    ('did', {'folder': '.', 'split': 'val'}, "split = 'val' must be 'train'"),
    ('pairs', {'folder': '.', 'split': 'val'}, "split = 'val' must be 'train'"),
  ],
)
def test_bad_options_are_named(name, options, message):
  with pytest.raises(ValueError, match=message):
    derain_sets.open_set(name, **{'split': 'train', **options})


def test_other_names_are_refused():
  with pytest.raises(ValueError, match=r"set 'photos' must be one of .*'spa'"):
    derain_sets.published_set('photos', '.', split='train')


def test_shared_sets(shared):
  for name, folder, split, size in (
    ('rain100l', 'rain100L_train', None, 20),
    ('rain100l', 'rain100L_test', None, 20),
    ('rain100h', 'rain100H_test', None, 20),
    ('rain800', 'rain800', 'train', 8),
    ('rain800', 'rain800', 'test', 4),
  ):
    root = shared(f'data/{folder}')
    source = derain_sets.published_set(name, root, split=split)
    assert len(source) == size
    path = root / (split or '.') / 'rain' / source.names[1]
    np.testing.assert_array_equal(source[1]['input'], images.read_rgb(path))
