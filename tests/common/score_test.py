"""The command that scores picture files."""

import csv
import math
import os

import numpy as np
import png
import pytest
from PIL import Image

from common import metrics, score

SIZE = (12, 13)


def pixels(seed=0, shape=(*SIZE, 3), top=256, dtype=np.uint8):
  return np.random.default_rng(seed).integers(top, size=shape, dtype=dtype)


def save(path, array=None, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels() if array is None else array).save(path, **options)
  return str(path)


def save_deep(path, array):
  with path.open('wb') as file:
    rows = array.reshape(len(array), -1)
    grey = array.ndim == 2
    png.Writer(*SIZE[::-1], bitdepth=16, greyscale=grey).write(file, rows)
  return str(path)


def failure(capsys, *arguments, code=1):
  """What a command that fails says on standard error, without traceback."""
  with pytest.raises(SystemExit) as caught:
    score.main([str(x) for x in arguments])
  assert caught.value.code == code
  out, err = capsys.readouterr()
  assert out == '' and 'Traceback' not in err
  return err


def expected(predicted, target, name):
  found = metrics.score(
    np.float32(predicted[None] / 255),
    np.float32(target[None] / 255),
    metrics.PROTOCOLS[name],
  )
  return float(found['psnr'][0]), float(found['ssim'][0])


def test_two_files(tmp_path, capsys):
  a, b = pixels(0), pixels(1)
  files = save(tmp_path / 'a.png', a), save(tmp_path / 'b.png', b)
  score.main([*files, '--protocols', 'matlab_y,trnr_rgb'])
  lines = capsys.readouterr().out.splitlines()
  numbers = [expected(a, b, x) for x in ('matlab_y', 'trnr_rgb')]
  cells = ' | '.join(f'{psnr:.3f} / {ssim:.4f}' for psnr, ssim in numbers)
  assert lines == [
    '| | matlab_y | trnr_rgb |',
    '|---|---|---|',
    f'| a.png | {cells} |',
    f'| mean of 1 | {cells} |',
  ]


def test_folders_and_csv(tmp_path, capsys):
  # Suffixes may differ, and other files are no pictures.
  names = ['1.png', 'zwölf |.png']
  for seed, name in enumerate(names):
    save(tmp_path / 'a' / name, pixels(seed))
    save(tmp_path / 'b' / name.replace('png', 'bmp'), pixels(seed + 7))
  (tmp_path / 'a' / 'notes.txt').write_text('')
  path = tmp_path / 'scores.csv'
  path.write_text('old')
  folders = [str(tmp_path / 'a'), str(tmp_path / 'b')]
  score.main([*folders, '--csv', str(path)])
  out = capsys.readouterr().out
  assert '| | trnr_rgb | matlab_y | coic_y |' in out and r'zwölf \|.png' in out
  with path.open(encoding='utf-8', newline='') as file:
    rows = [*csv.DictReader(file)]
  assert [row['picture'] for row in rows] == [*names, 'mean']
  for seed, row in enumerate(rows[:2]):
    for protocol in score.PROTOCOLS:
      numbers = expected(pixels(seed), pixels(seed + 7), protocol)
      for field, number in zip(('psnr', 'ssim'), numbers, strict=True):
        assert float(row[f'{protocol}_{field}']) == number
  for field in [*rows[0]][1:]:
    mean = np.mean([float(row[field]) for row in rows[:2]])
    assert math.isclose(float(rows[2][field]), mean, rel_tol=1e-12)
  assert sorted(os.listdir(tmp_path)) == ['a', 'b', 'scores.csv']


def test_patterns_let_predictions_share_a_target(tmp_path, capsys):
  for name in ('3_1', '3_2', '12_1'):
    save(tmp_path / 'a' / f'{name}.png')
  for name in ('003', '012'):
    save(tmp_path / 'b' / f'norain-{name}.png')
  rows = score.score_files(
    tmp_path / 'a',
    tmp_path / 'b',
    protocols=['rgb_8bit'],
    predicted_pattern=r'(\d+)_\d\.png',
    target_pattern=r'norain-(\d+)\.png',
  )
  assert [*rows] == ['3_1.png', '3_2.png', '12_1.png']
  equal = {'rgb_8bit_psnr': math.inf, 'rgb_8bit_ssim': 1.0}
  assert all(row == equal for row in rows.values())
  save(tmp_path / 'a' / '3_1.jpg')
  patterns = ('--predicted_pattern', r'(\d+)_\d\.\w+')
  patterns += ('--target_pattern', r'norain-(\d+)\.png')
  err = failure(capsys, tmp_path / 'a', tmp_path / 'b', *patterns)
  assert '3_1.jpg and ' in err and 'have the same name' in err
  err = failure(
    capsys, tmp_path / 'a', tmp_path / 'b', '--target_pattern', '(a'
  )
  assert err.startswith("error: the pattern '(a' is no regular expression")


def test_list(capsys):
  with pytest.raises(SystemExit) as caught:
    score.main(['--list'])
  assert caught.value.code == 0
  out = capsys.readouterr().out
  blocks = {x.splitlines()[0]: x for x in out.split('\n\n')}
  assert [*blocks][:-1] == [*metrics.PROTOCOLS]
  assert 'rounded to 8 bits' in blocks['matlab_y'] and 'MATLAB' in out
  assert 'CoIC' in blocks['coic_y'] and 'pooling' in blocks['coic_y']
  assert 'TRNR' in blocks['trnr_rgb'] and 'RSD' in out


def test_depths_and_kinds_of_files(tmp_path):
  array = pixels()
  reference = save(tmp_path / 'it.png', array)
  opaque = np.dstack([array, np.full(SIZE, 255, np.uint8)])
  same = [
    save(tmp_path / 'alpha.png', opaque),
    save_deep(tmp_path / 'deep.png', array.astype(np.uint16) * 257),
    save(tmp_path / 'png in a name of.jpg', array, format='PNG'),
  ]
  for path in same:
    (row,) = score.score_files(path, reference).values()
    # 16-bit numbers divide to within a last bit of those of 8 bits.
    assert row['trnr_rgb_psnr'] > 130 and row['coic_y_ssim'] == 1
  palette = Image.fromarray(array).quantize(8)
  cmyk = Image.fromarray(pixels(shape=(*SIZE, 4)), 'CMYK')
  for image, name in ((palette, 'palette.png'), (cmyk, 'cmyk.tif')):
    image.save(tmp_path / name)
    (row,) = score.score_files(tmp_path / name, reference).values()
    numbers = expected(np.asarray(image.convert('RGB')), array, 'trnr_rgb')
    assert (row['trnr_rgb_psnr'], row['trnr_rgb_ssim']) == numbers


def test_half_a_level_counts_in_16_bits(tmp_path):
  deep = np.full((*SIZE, 3), 30000, np.uint16)
  a, b = (save_deep(tmp_path / f'{x}.png', deep + x) for x in (0, 65))
  rows = score.score_files(a, b, protocols=['trnr_rgb', 'rgb_8bit'])
  (row,) = rows.values()
  assert math.isclose(
    row['trnr_rgb_psnr'], -20 * math.log10(65 / 65535), rel_tol=1e-4
  )
  assert row['rgb_8bit_psnr'] == math.inf


def test_grey(tmp_path, capsys):
  a, b = pixels(0, SIZE), pixels(1, SIZE)
  files = save(tmp_path / 'a.png', a), save(tmp_path / 'b.png', b)
  (row,) = score.score_files(*files).values()
  psnr, ssim = expected(a[..., None], b[..., None], 'trnr_rgb')
  assert row == {'trnr_rgb_psnr': psnr, 'trnr_rgb_ssim': ssim}
  pair = np.dstack([a, np.full(SIZE, 255, np.uint8)])
  with_alpha = save(tmp_path / 'alpha.png', pair)
  assert score.score_files(with_alpha, files[1])['alpha.png'] == row
  deep = save_deep(tmp_path / 'deep.png', a.astype(np.uint16) * 257)
  found = score.score_files(deep, files[1])['deep.png']
  assert math.isclose(found['trnr_rgb_psnr'], psnr, rel_tol=1e-5)
  err = failure(capsys, *files, '--protocols', 'rgb_8bit,y_8bit,coic_y')
  assert 'b.png are grey, and y_8bit, coic_y score luma of RGB; take' in err
  colour = save(tmp_path / 'colour.png')
  err = failure(capsys, files[0], colour)
  assert err == (
    f'error: {files[0]} and {colour} are grey and RGB; convert one of them\n'
  )


def test_grey_beside_colour_needs_protocols(tmp_path, capsys):
  for folder in ('a', 'b'):
    save(tmp_path / folder / 'grey.png', pixels(0, SIZE))
    save(tmp_path / folder / 'rgb.png')
  folders = tmp_path / 'a', tmp_path / 'b'
  err = failure(capsys, *folders)
  assert err.startswith('error: grey.png and rgb.png are grey and in colour')
  rows = score.score_files(*folders, protocols=['rgb_8bit'])
  assert [*rows] == ['grey.png', 'rgb.png']


def test_names_without_partner_are_all_listed(tmp_path, capsys):
  for folder, names in (('a', 'bcdefghi'), ('b', 'bxyz')):
    for name in names:
      save(tmp_path / folder / f'{name}.png')
  lines = failure(capsys, tmp_path / 'a', tmp_path / 'b').splitlines()
  one, other = tmp_path / 'a', tmp_path / 'b'
  assert lines == [
    *(f'error: {one}/{x}.png has no partner in {other}' for x in 'cdefghi'),
    *(f'error: {other}/{x}.png has no partner in {one}' for x in 'xyz'),
  ]


@pytest.mark.parametrize('folder', ['a', 'b'])
def test_names_twice(tmp_path, capsys, folder):
  for name in ('a/it.png', 'b/it.png', f'{folder}/it.bmp'):
    save(tmp_path / name)
  err = failure(capsys, tmp_path / 'a', tmp_path / 'b')
  assert f'{folder}/it.bmp and ' in err and f'{folder}/it.png ' in err


def test_hostile_files_are_all_named(tmp_path, capsys):
  bad = {
    'empty': 'cannot be read',
    'folder': 'cannot be read',
    'large': 'have 13 x 12 and 12 x 13 pixels (height x width)',
    'small': 'are smaller than the window',
    'text': 'cannot be read',
    'cut off': 'cannot be read',
    'transparent': 'has transparent pixels',
    'ünï': 'cannot be read',
  }
  for name in ('good', *bad):
    for folder in ('a', 'b'):
      save(tmp_path / folder / f'{name}.png')
  one = tmp_path / 'a'
  (one / 'empty.png').write_bytes(b'')
  (one / 'folder.png').unlink()
  (one / 'folder.png').mkdir()
  save(one / 'large.png', pixels(shape=(*SIZE[::-1], 3)))
  for folder in ('a', 'b'):
    save(tmp_path / folder / 'small.png', pixels(shape=(10, 13, 3)))
  (one / 'text.png').write_text('hello')
  (one / 'cut off.png').write_bytes((one / 'good.png').read_bytes()[:200])
  save(one / 'transparent.png', pixels(shape=(*SIZE, 4)))
  (tmp_path / 'b' / 'ünï.png').write_bytes(b'GIF89a')
  path = tmp_path / 'scores.csv'
  err = failure(capsys, one, tmp_path / 'b', '--csv', path)
  lines = err.splitlines()
  assert len(lines) == len(bad) and not path.exists()
  for name, reason in bad.items():
    (line,) = (x for x in lines if f'/{name}.png' in x)
    assert line.startswith('error: ') and reason in line


def test_names_that_are_no_unicode(tmp_path, capsys):
  name = os.fsdecode(b'\xff.png')
  try:
    files = save(tmp_path / 'a' / name), save(tmp_path / 'b.png')
  except OSError:
    pytest.skip('this file system has Unicode names alone')
  score.main([*files, '--csv', str(tmp_path / 'c.csv')])
  assert r'\udcff.png' in capsys.readouterr().out
  assert b'\n\xff.png,inf' in (tmp_path / 'c.csv').read_bytes()


@pytest.mark.parametrize(
  'predicted, target, message',
  [
    ('none', 'a', 'none is not there'),
    ('a', 'none.png', 'none.png is not there'),
    ('a', 'it.png', 'a is a folder and '),
    ('it.png', 'a', 'it.png a file; give two of a kind'),
    ('a', 'empty', 'empty has no image files'),
    ('a', 'a', "it.png does not fit exactly one of '(.+)"),
  ],
)
def test_bad_paths(tmp_path, capsys, predicted, target, message):
  save(tmp_path / 'it.png')
  save(tmp_path / 'a' / 'it.png')
  (tmp_path / 'empty').mkdir()
  err = failure(capsys, tmp_path / predicted, tmp_path / target)
  assert err.startswith('error: ') and message in err and err.count('\n') == 1


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['a'], 'the following arguments are required: target'),
    (['a', 'b', '--protocols', 'psnr'], "protocol 'psnr' must be one of"),
    (['a', 'b', '--protocols', ''], "protocol '' must be one of"),
    (['a', 'b', '--unknown'], 'unrecognized arguments: --unknown'),
  ],
)
def test_usage(capsys, arguments, message):
  assert message in failure(capsys, *arguments, code=2)


@pytest.mark.parametrize('name', ['absent/scores.csv', 'folder'])
def test_csv_is_written_whole_or_not_at_all(tmp_path, capsys, name):
  (tmp_path / 'folder').mkdir()
  path = save(tmp_path / 'it.png')
  with pytest.raises(SystemExit) as caught:
    score.main([path, path, '--csv', str(tmp_path / name)])
  assert caught.value.code == 1
  out, err = capsys.readouterr()
  # The scores are not lost.
  assert '| mean of 1 | inf / 1.0000' in out and err.startswith('error: ')
  assert sorted(os.listdir(tmp_path)) == ['folder', 'it.png']
  with pytest.raises(KeyError):
    score.write_csv(tmp_path / 'it.csv', {'a': {'x': 1.0}, 'b': {}})
  assert not (tmp_path / 'it.csv').exists()


def test_stored_scores(golden, tmp_path):
  numbers = golden('coic/metrics.npz')
  for key in ('a', 'c'):
    files = [
      save(tmp_path / f'{x}.png', numbers[f'{key}/{x}_u8'])
      for x in ('pred', 'clean')
    ]
    rows = score.score_files(*files, protocols=['coic_y', 'trnr_rgb'])
    row = rows['pred.png']
    assert abs(row['coic_y_psnr'] - numbers[f'{key}/psnr_y']) < 1e-4
    assert abs(row['coic_y_ssim'] - numbers[f'{key}/ssim_y']) < 1e-5
    assert abs(row['trnr_rgb_psnr'] - numbers[f'{key}/psnr_rgb']) < 1e-4


def test_shared_pairs(shared, golden):
  folder = shared('data/rain100L_test')
  numbers = golden('trnr/rain100l_test_metrics.npz')
  name = '002.png'
  files = folder / 'rain' / name, folder / 'norain' / name
  row = score.score_files(*files, protocols=['trnr_rgb'])[name]
  assert abs(row['trnr_rgb_psnr'] - numbers['input_psnr_rgb'][1]) < 1e-4
  assert abs(row['trnr_rgb_ssim'] - numbers['input_ssim_rgb'][1]) < 1e-5
