"""The command that checks a data set."""

import itertools

import numpy as np
import pytest
from PIL import Image

from common.data import check

_COUNTER = itertools.count()


def save(path, array=None, size=(8, 9)):
  """A picture; unless one is given, another each time."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if array is None:
    rng = np.random.default_rng(next(_COUNTER))
    array = rng.integers(256, size=(*size, 3), dtype=np.uint8)
  Image.fromarray(array).save(path)
  return array


def save_set(root, counts, rainy='rain/{}.png', clean='norain/{}.png'):
  for split, count in counts.items():
    for number in range(1, count + 1):
      save(root / split / rainy.format(number))
      save(root / split / clean.format(number))
  return root


def run(capsys, *arguments, code=0):
  """Lines on standard output and standard error."""
  arguments = [str(x) for x in arguments]
  if code:
    with pytest.raises(SystemExit) as caught:
      check.main(arguments)
    assert caught.value.code == code
  else:
    check.main(arguments)
  out, err = capsys.readouterr()
  assert 'Traceback' not in err
  return out.splitlines(), err.splitlines()


def test_a_good_set(tmp_path, capsys):
  save_set(tmp_path, {'train': 3, 'test': 2})
  out, err = run(capsys, tmp_path, '--layout', 'rain100l')
  assert out == [
    '| split | pairs | intact | scenes | height x width |',
    '|---|---|---|---|---|',
    '| train | 3 | 3 | 3 | 8 x 9 (3) |',
    '| test | 2 | 2 | 2 | 8 x 9 (2) |',
    '',
    'rain100l: unknown version, 5 pairs',
  ]
  assert not err


@pytest.mark.parametrize(
  'layout, rainy, clean',
  [
    ('rain200l', 'rain/X2/norain-{}x2.png', 'norain/norain-{}.png'),
    ('rain200h', 'rain/norain-{}x2.png', 'norain/norain-{}.png'),
    ('rain100h', 'rain/rain-{}.png', 'norain/norain-{}.png'),
    ('rain800', 'rain/rain-{}.png', 'norain/norain-{}.png'),
    ('ddn', 'rain/{}_1.png', 'norain/{}.png'),
    ('rain1400', 'rain/{}_14.png', 'norain/{}.png'),
  ],
)
def test_layouts_of_two_folders(tmp_path, layout, rainy, clean):
  save_set(tmp_path, {'train': 2, 'test': 1}, rainy, clean)
  report = check.check_set(layout, tmp_path)
  counts = {split: x.num_intact for split, x in report.splits.items()}
  assert counts == {'train': 2, 'test': 1}
  assert report.problems == report.notes == ()
  # One split alone, without its name.
  report = check.check_set(layout, tmp_path / 'test')
  assert report.splits['all'].num_pairs == 1 and not report.problems


def test_a_published_version(tmp_path, capsys):
  save_set(tmp_path, {'test': 100})
  out, _ = run(capsys, tmp_path, '--layout', 'rain100l')
  assert out[-2:] == [
    'rain100l: the test split of Rain100L',
    'note: there is no train split',
  ]


@pytest.mark.parametrize('layout', ['did', 'rain800'])
def test_side_by_side(tmp_path, capsys, layout):
  same = save(tmp_path / 'train' / '1.png', size=(8, 12))
  save(tmp_path / 'train' / '2.png', size=(8, 11))
  twice = save(tmp_path / 'train' / '3.png', size=(8, 6))
  twice = np.concatenate([twice, twice], axis=1)
  save(tmp_path / 'train' / '3.png', twice)
  # The rainy half is another, the clean one is not.
  half = slice(6, 12) if layout == 'did' else slice(0, 6)
  other = np.zeros_like(same)
  other[:, half] = same[:, half]
  save(tmp_path / 'test' / '1.png', other)
  out, err = run(capsys, tmp_path, '--layout', layout, code=1)
  assert out[2] == '| train | 3 | 2 | 2 | 8 x 6 (2) |'
  train = tmp_path / 'train'
  assert err == [
    f'error: {train}/2.png is 11 pixels wide; two equal halves need an even '
    'width',
    f'error: {train}/3.png: input and target are the same picture',
    f'error: {train}/1.png of train and {tmp_path}/test/1.png of test have '
    'the same target',
    'problems: 3',
  ]


def test_spa(tmp_path, capsys):
  for place in (1, 2):
    array = save(tmp_path / 'real_world/07/07-3' / f'07-3_{place}_4.png')
    save(tmp_path / 'real_world_gt/07' / f'07_{place}_4.png', array)
  save(tmp_path / 'real_test_1000/rain/000.png')
  save(tmp_path / 'real_test_1000/gt/000gt.png')
  # Rain may miss a cut of a real picture.
  out, err = run(capsys, tmp_path, '--layout', 'spa')
  assert out[2].startswith('| train | 2 | 2 | 2 ') and not err
  assert 'train: input and target are the same picture' in out[-1]
  gt = tmp_path / 'real_world_gt' / '07'
  save(gt / '07_01_4.png')
  save(tmp_path / 'real_world/07/07-3/07-3_9_9.png')
  save(tmp_path / 'real_world/07/07-3/cover.png')
  _, err = run(capsys, tmp_path, '--layout', 'spa', code=1)
  assert len(err) == 4
  assert f'{gt}/07_01_4.png and {gt}/07_1_4.png are clean images of' in err[0]
  assert 'cover.png does not end in _X_Y' in err[1]
  assert '07-3_9_9.png has no partner' in err[2]


def test_real_pictures(tmp_path, capsys):
  for name in ('a b.png', 'ü.png', 'z.png'):
    array = save(tmp_path / name)
  save(tmp_path / 'zz.png', array)
  out, err = run(capsys, tmp_path, '--layout', 'realint')
  assert out[0].startswith('| split | pictures |') and not err
  assert out[2] == '| all | 4 | 4 | 3 | 8 x 9 (4) |'
  assert out[4:] == [
    'realint: unknown version, 4 pictures',
    f'note: all: 1 target pictures are in several files: {tmp_path}/z.png = '
    f'{tmp_path}/zz.png',
  ]


def test_own_pairs(tmp_path, capsys):
  for name in ('3_1', '3_2'):
    save(tmp_path / 'wet' / f'{name}.png')
  save(tmp_path / 'dry' / 'x3.png')
  (tmp_path / 'wet' / 'notes.txt').write_text('')
  arguments = [tmp_path, '--layout', 'pairs', '--input_folder', 'wet']
  arguments += ['--target_folder', 'dry', '--target_pattern', r'x(\d)\.png']
  arguments += ['--input_pattern', r'(\d)_\d\.png']
  out, err = run(capsys, *arguments)
  assert out[2] == '| all | 2 | 2 | 1 | 8 x 9 (2) |' and not err
  assert out[-1] == f'note: not read in {tmp_path}/wet: notes.txt'
  save(tmp_path / 'a' / 'dry' / '1.png')
  save(tmp_path / 'a' / 'test' / 'wet' / '1.png')
  report = check.check_set(
    'pairs',
    tmp_path / 'a',
    input_folder='{split}/wet',
    target_folder='dry',
  )
  assert [*report.splits] == ['test']
  out, err = run(capsys, *arguments[:-1], '(a', code=1)
  assert not out and "'(a' is no regular expression" in err[0]


def test_every_bad_file_is_listed(tmp_path, capsys):
  save_set(tmp_path, {'train': 9, 'test': 1})
  rain, norain = (tmp_path / 'train' / x for x in ('rain', 'norain'))
  (rain / '1.png').write_bytes(b'')
  (norain / '1.png').write_bytes((norain / '2.png').read_bytes()[:120])
  save(rain / '2.png', size=(9, 8))
  (rain / '3.png').unlink()
  (norain / '4.png').unlink()
  (rain / '5.png').unlink()
  (rain / '5.png').mkdir()
  save(norain / '6.bmp')
  save(norain / 'x y.png')
  (norain / '7.png').write_text('no picture')
  (rain / 'list.txt').write_text('')
  out, err = run(capsys, tmp_path, '--layout', 'rain200l', code=1)
  assert out[2] == '| train | 6 | 2 | 2 | 8 x 9 (2) |'
  assert f'note: not read in {rain}: 4.png, 6.png, list.txt' in out
  expected = [
    f'the name of {norain}/x y.png does not fit',
    f'{norain}/6.bmp and {norain}/6.png are both the clean image 6',
    f'{rain}/4.png has no partner in {norain}',
    f'{norain}/3.png has no partner in {rain}',
    f'{rain}/1.png cannot be decoded',
    f'{norain}/1.png cannot be decoded',
    f'{rain}/2.png and {norain}/2.png: input [9, 8, 3] and target [8, 9, 3]',
    f'{rain}/5.png cannot be read',
    f'{norain}/7.png cannot be decoded',
  ]
  assert (
    err[-1] == f'problems: {len(expected)}' and len(err) == len(expected) + 1
  )
  for line, start in zip(err, expected, strict=False):
    assert line.startswith(f'error: {start}')


def test_pictures_in_train_and_test(tmp_path, capsys):
  save_set(tmp_path, {'train': 2, 'test': 2})
  scene = save(tmp_path / 'train' / 'norain' / '2.png')
  # The file differs, the picture does not.
  Image.fromarray(scene).save(
    tmp_path / 'test' / 'norain' / '1.png', compress_level=0
  )
  out, err = run(capsys, tmp_path, '--layout', 'rain100h', code=1)
  assert err == [
    f'error: {tmp_path}/train/norain/2.png of train and '
    f'{tmp_path}/test/norain/1.png of test have the same target',
    'problems: 1',
  ]
  # Twice in one split is worth a note.
  save(tmp_path / 'test' / 'norain' / '1.png')
  save(tmp_path / 'train' / 'norain' / '1.png', scene)
  out, err = run(capsys, tmp_path, '--layout', 'rain100h')
  assert not err and 'train: 1 target pictures are in several' in out[-1]
  assert out[2] == '| train | 2 | 2 | 1 | 8 x 9 (2) |'


def test_kinds_of_files(tmp_path):
  grey = np.arange(72, dtype=np.uint8).reshape(8, 9)
  kinds = {
    'palette': Image.fromarray(save(tmp_path / 'it.png')).quantize(4),
    'grey': Image.fromarray(grey),
    'deep': Image.fromarray(grey.astype(np.uint16) * 256 + 7),
    'alpha': Image.fromarray(np.dstack([grey, grey + np.uint8(9)])),
  }
  for name, image in kinds.items():
    for folder in ('rain', 'norain'):
      (tmp_path / folder).mkdir(exist_ok=True)
      image.save(tmp_path / folder / f'{name} é.png')
  cmyk = Image.new('CMYK', (9, 8), (9, 8, 7, 6))
  for folder in ('rain', 'norain'):
    cmyk.save(tmp_path / folder / 'cmyk.tif')
  report = check.check_set('pairs', tmp_path)
  assert report.splits['all'].num_intact == 5
  # All are pairs of equal files.
  assert len(report.problems) == 5


def test_half_a_split_is_a_problem(tmp_path, capsys):
  save_set(tmp_path, {'train': 1})
  (tmp_path / 'test' / 'rain').mkdir(parents=True)
  out, err = run(capsys, tmp_path, '--layout', 'rain100l', code=1)
  assert out[2].startswith('| train | 1 | 1 ') and len(err) == 2
  assert err[0].startswith('error: rain100l expects images in ')
  (tmp_path / 'test' / 'norain').mkdir()
  _, err = run(capsys, tmp_path, '--layout', 'rain100l', code=1)
  assert err[0] == f'error: {tmp_path}/test/rain has no image files'


@pytest.mark.parametrize(
  'layout, message',
  [
    ('rain100l', 'rain100l expects images in '),
    ('did', 'did expects images in '),
    ('spa', 'spa expects images in .*real_test_1000/gt$'),
    ('realint', 'has no image files'),
    ('pairs', 'there is no folder .*/rain$'),
  ],
)
def test_nothing_there(tmp_path, layout, message):
  with pytest.raises((FileNotFoundError, ValueError), match=message):
    check.check_set(layout, tmp_path)
  with pytest.raises(FileNotFoundError, match=r'there is no folder .*absent'):
    check.check_set(layout, tmp_path / 'absent')


def test_one_line_for_a_folder_that_is_none(tmp_path, capsys):
  out, err = run(capsys, tmp_path / 'absent', '--layout', 'did', code=1)
  assert not out and err == [f'error: there is no folder {tmp_path}/absent']


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--layout', 'rain13k'], "invalid choice: 'rain13k'"),
    ([], 'the following arguments are required: --layout'),
    (
      ['--layout', 'did', '--input_folder', 'a'],
      '--input_folder is for --layout pairs',
    ),
  ],
)
def test_usage(tmp_path, capsys, arguments, message):
  _, err = run(capsys, tmp_path, *arguments, code=2)
  assert message in err[-1]
  with pytest.raises(ValueError, match="layout 'rain13k' must be one of"):
    check.check_set('rain13k', tmp_path)


def test_shared_sets(shared, capsys):
  out, err = run(capsys, shared('data/rain800'), '--layout', 'rain800')
  assert out[2].startswith('| train | 8 | 8 | 8 | ')
  assert out[3].startswith('| test | 4 | 4 | 4 | ')
  assert 'rain800: unknown version, 12 pairs' in out and not err
  report = check.check_set('rain100l', shared('data/rain100L_test'))
  assert report.version == 'unknown version, 20 pairs' and not report.problems
  assert report.splits['all'].sizes == {(321, 481): 16, (481, 321): 4}
