import pickle
import re

import numpy as np
import pytest
from PIL import Image

from common.data import images, pairs


def save(path, size=(6, 4), colour=(0, 0, 0)):
  path.parent.mkdir(exist_ok=True)
  Image.new('RGB', size, colour).save(path)


def save_all(folder, names, kind):
  """Files whose colour says which they are; hidden and other ones beside."""
  for i, name in enumerate(names):
    save(folder / name, colour=(i, kind, 7))
  (folder / '.hidden.png').write_bytes(b'')
  (folder / 'notes.txt').write_text('about the images')


@pytest.mark.parametrize(
  'inputs, targets, patterns, expected',
  [
    (
      ['b.png', 'a.png'],
      ['a.png', 'b.bmp'],
      (),
      [('a.png', 'a'), ('b.png', 'b')],
    ),
    (
      ['rain-001.png', 'rain-010.png'],
      ['norain-1.png', 'norain-10.png'],
      (r'rain-(\d+)\.png', r'norain-(\d+)\.png'),
      [('rain-001.png', 'norain-1'), ('rain-010.png', 'norain-10')],
    ),
    (
      ['10_1.bmp', '2_10.bmp', '2_9.bmp'],
      ['2.bmp', '10.bmp'],
      (r'(\d+)_\d+\.bmp', r'(\d+)\.bmp'),
      [('2_9.bmp', '2'), ('2_10.bmp', '2'), ('10_1.bmp', '10')],
    ),
    (
      ['3x1.png', '3x2.png'],
      ['3.png'],
      (r'(\d+)x\d+\.png', r'(\d+)\.png'),
      [('3x1.png', '3'), ('3x2.png', '3')],
    ),
  ],
)
def test_paired_folders(tmp_path, inputs, targets, patterns, expected):
  folders = [(tmp_path / 'in', tmp_path / 'out')]
  if patterns:
    folders += [(tmp_path / 'both', tmp_path / 'both')]
  for pair in folders:
    check_pairing(pair, inputs, targets, patterns, expected)


def check_pairing(folders, inputs, targets, patterns, expected):
  save_all(folders[0], inputs, 100)
  save_all(folders[1], targets, 200)
  names = dict(zip(('input_pattern', 'target_pattern'), patterns, strict=False))

  source = pairs.paired_folders(*folders, **names)

  assert len(source) == len(expected)
  assert source.names == tuple(name for name, _ in expected)
  stems = [re.sub(r'\.\w+$', '', name) for name in targets]
  source = pickle.loads(pickle.dumps(source))
  for i, (name, target) in enumerate(expected):
    example = source[i]
    for key, colour in (
      ('input', (inputs.index(name), 100, 7)),
      ('target', (stems.index(target), 200, 7)),
    ):
      np.testing.assert_array_equal(example[key], np.full((4, 6, 3), colour))
      assert example[key].dtype == np.uint8


NUMBERED = {
  'input_pattern': r'(\d+)_\d+\.png',
  'target_pattern': r'(\d+)\.png',
}


@pytest.mark.parametrize(
  'inputs, targets, options, message',
  [
    (['a.png', 'b.png'], ['a.png'], {}, r'1 files have no .*out: .*in/b\.png$'),
    (['a.png'], ['a.png', 'c.png'], {}, r'no partner in .*in: .*out/c\.png$'),
    (
      ['a.png', *(f'{i}.png' for i in range(7))],
      ['a.png'],
      {},
      r'7 files .*in/0\.png.*in/4\.png and 2 more$',
    ),
    (['1_1.png', 'x.png'], ['1.png'], NUMBERED, r'1 file names .*in/x\.png$'),
    (
      ['1_1.png'],
      ['1.png', '01.png'],
      NUMBERED,
      r'01\.png and .*out/1\.png are',
    ),
    (['a.png'], ['a.png', 'a.bmp'], {}, r"a\.png are both the clean image 'a'"),
    (['a.png'], ['a.png'], {'input_pattern': '.+'}, r"'\.\+' has no group"),
    ([], ['a.png'], {}, 'in has no image files'),
  ],
)
def test_unmatched_files_are_named(tmp_path, inputs, targets, options, message):
  save_all(_folder(tmp_path / 'in'), inputs, 0)
  save_all(_folder(tmp_path / 'out'), targets, 0)
  with pytest.raises(ValueError, match=message):
    pairs.paired_folders(tmp_path / 'in', tmp_path / 'out', **options)


def test_unmatched_files_in_one_folder(tmp_path):
  save_all(tmp_path, ['1_1.png', '1.png', 'x.png'], 0)
  with pytest.raises(ValueError, match=r'fit exactly one of .*: .*x\.png$'):
    pairs.paired_folders(tmp_path, tmp_path, **NUMBERED)
  with pytest.raises(ValueError, match='3 file names do not fit exactly one'):
    pairs.paired_folders(tmp_path, tmp_path)


def test_absent_folder(tmp_path):
  save_all(tmp_path / 'in', ['a.png'], 0)
  with pytest.raises(FileNotFoundError, match=r'no folder .*out'):
    pairs.paired_folders(tmp_path / 'in', tmp_path / 'out')


def test_bad_pairs_raise_when_read(tmp_path):
  for name in ('a.png', 'b.png'):
    save(tmp_path / 'in' / name)
    save(tmp_path / 'out' / name, size=(4, 6))
  path = tmp_path / 'in' / 'b.png'
  path.write_bytes(path.read_bytes()[:40])
  source = pairs.paired_folders(tmp_path / 'in', tmp_path / 'out')
  with pytest.raises(
    ValueError, match=r'in/a\.png and .*out/a\.png: input \[4, 6, 3\] and tar'
  ):
    source[0]
  with pytest.raises(ValueError, match=r'in/b\.png cannot be decoded'):
    source[1]


@pytest.mark.parametrize('input_half', ['left', 'right'])
def test_side_by_side(tmp_path, input_half):
  left, right = np.zeros((2, 4, 3, 3), np.uint8) + np.arange(3, dtype=np.uint8)
  right = right + np.uint8(50)
  for name in ('10.png', '9.png'):
    both = np.concatenate([left, right], axis=1)
    Image.fromarray(both).save(tmp_path / name)
  source = pairs.side_by_side_folder(tmp_path, input_half=input_half)
  assert len(source) == 2 and source.names == ('9.png', '10.png')
  degraded, clean = (left, right) if input_half == 'left' else (right, left)
  np.testing.assert_array_equal(source[1]['input'], degraded)
  np.testing.assert_array_equal(source[1]['target'], clean)


def test_bad_side_by_side(tmp_path):
  save(tmp_path / 'a.png', size=(7, 4))
  with pytest.raises(ValueError, match="input_half = 'top'"):
    pairs.side_by_side_folder(tmp_path, input_half='top')
  source = pairs.side_by_side_folder(tmp_path, input_half='left')
  with pytest.raises(ValueError, match=r'a\.png is 7 pixels wide'):
    source[0]


def test_clean_folder(tmp_path):
  save(tmp_path / 'colour.png', colour=(10, 20, 31))
  grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
  Image.fromarray(grey).save(tmp_path / 'grey.png')
  source = pairs.clean_folder(tmp_path)
  assert source.names == ('colour.png', 'grey.png') and len(source) == 2
  assert source[0].keys() == {'target'}
  assert source[0]['target'].shape == source[1]['target'].shape == (4, 6, 3)
  source = pairs.clean_folder(tmp_path, grey=True)
  # 2.99 + 11.74 + 3.534
  np.testing.assert_array_equal(source[0]['target'], np.full((4, 6, 1), 18))
  np.testing.assert_array_equal(source[1]['target'], grey[..., None])
  assert source[0]['target'].dtype == np.uint8


def test_arrays():
  inputs = [np.full((2, i + 1, 1), i, np.uint8) for i in range(3)]
  targets = [x + np.uint8(9) for x in inputs]
  source = pairs.ArrayPairs(inputs, targets, ('a', 'b', 'c'))
  assert len(source) == 3
  np.testing.assert_array_equal(source[2]['input'], inputs[2])
  np.testing.assert_array_equal(source[2]['target'], targets[2])
  clean = pairs.CleanArrays(targets, ('a', 'b', 'c'))
  assert len(clean) == 3 and clean[1].keys() == {'target'}
  np.testing.assert_array_equal(clean[1]['target'], targets[1])


def test_bad_arrays_are_named():
  image = np.zeros((2, 3, 3), np.uint8)
  for inputs, targets, names, message in (
    ([image], [image] * 2, ('a',), '2 targets and 1 names must'),
    ([image], [image / 255], ('a',), r'a: target float64\[2, 3, 3\] must be'),
    ([image[0]], [image], ('a',), r'a: input uint8\[3, 3\] must be'),
    ([image[:1]], [image], ('a',), r'a: input \[1, 3, 3\] and target \[2, 3'),
  ):
    with pytest.raises(ValueError, match=message):
      pairs.ArrayPairs(inputs, targets, names)
  with pytest.raises(ValueError, match='1 targets and 0 names'):
    pairs.CleanArrays([image], ())
  with pytest.raises(ValueError, match=r'a: target float64\[2, 3, 3\]'):
    pairs.CleanArrays([image / 255], ('a',))


def test_shared_pairs(shared):
  folder = shared('data/rain100L_test')
  source = pairs.paired_folders(folder / 'rain', folder / 'norain')
  assert len(source) == 20 and source.names[:2] == ('001.png', '002.png')
  np.testing.assert_array_equal(
    source[1]['target'], images.read_rgb(folder / 'norain' / '002.png')
  )
  assert len(pairs.clean_folder(shared('data/set12'), grey=True)) == 12


def _folder(path):
  path.mkdir()
  return path


def test_first_pairs_in_memory():
  images = [np.full((2, 2, 3), i, np.uint8) for i in range(4)]
  whole = pairs.ArrayPairs(images, images, ('a', 'b', 'c', 'd'))
  assert pairs.first(whole, 0) is whole
  assert pairs.first(whole, 9).names == whole.names
  kept = pairs.in_memory(pairs.first(whole, 2))
  assert isinstance(kept, pairs.ArrayPairs) and kept.names == ('a', 'b')
  np.testing.assert_array_equal(kept[1]['target'], images[1])
