"""The command that writes a report."""

import html.parser
import json
import re

import numpy as np
import pytest
from PIL import Image

from common import checkpoints, report
from common.report.contents import read_parts
from common.report.text import escape

EVIL = '<script>alert("1")</script>&'


class Reader(html.parser.HTMLParser):
  """Texts, attributes, and whether elements are closed in order."""

  _VOID = ('meta', 'img', 'input', 'wbr')

  def __init__(self, page):
    super().__init__()
    self.open, self.texts, self.attributes, self.tags = [], [], [], []
    self.feed(page)
    assert self.open == []

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += [(tag, *pair) for pair in attributes]
    if tag not in self._VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append(tag)  # In drawings.

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ('style', 'script'):
      self.texts.append(data)


def read(path):
  return Reader(path.read_text(encoding='utf-8'))


def write(tmp_path, *folders):
  report.write_report(folders, tmp_path / 'report.html')
  return tmp_path / 'report.html'


def failure(capsys, *arguments, code=1):
  """What the command says as it fails: one line, no traceback."""
  with pytest.raises(SystemExit) as caught:
    report.main([str(x) for x in arguments])
  assert caught.value.code == code
  out, err = capsys.readouterr()
  assert out == '' and err.startswith('error: ') and err.count('\n') == 1
  return err


def rows(page, heading):
  """Words of the first table below a heading, by row."""
  section = page.split(f'<h3>{heading}</h3>')[1].split('</section>')[0]
  table = re.search('<tbody>(.*?)</tbody>', section, re.DOTALL)[1]
  return [
    re.sub('<[^>]+>', ' ', row).split()
    for row in table.replace('<wbr>', '').split('</tr>')[:-1]
  ]


def test_one_run(tmp_path, capsys, make_run, add_pictures):
  folder = make_run(tmp_path / 'my_run')
  add_pictures(folder)
  output = tmp_path / 'page.html'
  report.main([str(folder), '--output', str(output)])
  assert capsys.readouterr().out == f'{output}: 1 run, 0.0 MB\n'
  page = output.read_text()
  found = Reader(page)
  assert rows(page, 'Scores') == [
    ['heavy', 'coic_y', '18.25', '0.5000', '24.12', '0.8125']
  ]
  # 3 x 3 x 3 x 4 weights; four means are statistics.
  for text in (
    'my_run',
    '1 run · 20 steps · 108 parameters',
    'At the last evaluation, step 20. PSNR in dB, SSIM below it.',
    '108 parameters, and 4 of statistics, in 2 tensors',
    'network/stem',
    'mean (statistics)',
    '3 \xd7 3 \xd7 3 \xd7 4',
    'rainy cat',
    'restored',
    'analysis/map.png',
    'shrunk from 1500 \xd7 20 to 1000 \xd7 13',
    'brn',
  ):
    assert text in found.texts, text
  assert any('CoIC (ICLR 2024)' in text for text in found.texts)
  # PSNR, SSIM and loss; of one finite norm there is no curve.
  assert re.findall('<figcaption>(.*?)<', page) == [
    'rainy cat',
    'heavy_coic_y_psnr',
    'heavy_coic_y_ssim',
    'loss',
    'restored',
    'map',
  ]
  assert page.count('class="baseline"') == 2
  assert '<figcaption>loss<small>logarithmic</small>' in page


def test_is_self_contained(tmp_path, make_run, add_pictures):
  folder = make_run(tmp_path / 'run')
  add_pictures(folder)
  (folder / 'drawn.svg').write_text(
    '<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>'
  )
  page = write(tmp_path, folder).read_text()
  assert not re.search('https?:|//[a-z]|@import|url\\(', page)
  found = Reader(page)
  assert not {'link', 'iframe', 'object', 'base'} & {*found.tags}
  sources = [value for _, key, value in found.attributes if key == 'src']
  assert len(sources) == 7
  assert all(re.match(r'data:image/(png|svg\+xml);', x) for x in sources)
  links = [value for _, key, value in found.attributes if key == 'href']
  anchors = [value for _, key, value in found.attributes if key == 'id']
  assert links and all(x[0] == '#' and x[1:] in anchors for x in links)
  assert page == write(tmp_path, folder).read_text()


def test_text_is_escaped(tmp_path, make_run, add_pictures):
  name = EVIL.replace('/', '')
  folder = make_run(
    tmp_path / name,
    config={'data': {EVIL: EVIL}, 'names': [EVIL]},
    lines=[
      {'step': 1, 'loss': 1, EVIL: 2},
      {'step': 2, 'loss': 3, EVIL: 4},
      {'step': 2, EVIL: 4},
    ],
    model=False,
  )
  add_pictures(folder)
  pictures = folder / 'pictures'
  (pictures / 'restored').rename(pictures / name)
  (folder / 'analysis' / 'map.png').rename(folder / f'{name}.png')
  checkpoints.export_model(
    folder / 'model.safetensors', {'params': {EVIL: np.zeros(2)}}, {}
  )
  plain = make_run(tmp_path / 'plain')
  page = write(tmp_path, folder, plain).read_text()
  found = Reader(page)
  assert found.tags.count('script') == 1
  assert '<script>alert' not in page
  assert any(EVIL in text for text in found.texts)
  # Nothing breaks out of an attribute.
  assert not {key for _, key, _ in found.attributes} & {'onerror', '1', '1"'}


def test_names_that_are_no_text(tmp_path, make_run):
  make_run(tmp_path / 'run')
  assert escape('a\udcff<b') == 'a\\udcff&lt;b'
  try:
    (tmp_path / 'run').rename(tmp_path / 'run\udcff')
  except OSError:
    pytest.skip('this file system wants names to be text')
  page = write(tmp_path, tmp_path / 'run\udcff').read_text(encoding='utf-8')
  assert 'run\\udcff' in page


def test_comparison(tmp_path, make_run):
  folder = tmp_path / 'compared'
  for name, top1 in (('kd_seed0', 0.5), ('kd_seed1', 0.6), ('rsd_seed0', 0.9)):
    make_run(
      folder / name,
      config={'seed': int(name[-1]), 'distiller': {'name': name[:2]}, 'x': 1},
      lines=[
        {'step': 5, 'loss': 1.0},
        {'step': 5, 'test_top1': 0.1},
        {'step': 10, 'test_top1': top1},
      ],
    )
  (folder / 'rsd_seed0' / 'checkpoints').mkdir()
  (folder / 'rsd_seed0' / 'checkpoints' / 'no.png').write_text('')
  (folder / 'table.md').write_text('| a\\|b | c |\n|---|---|\n| d | 1.5 |\n')
  page = write(tmp_path, folder).read_text()
  found = Reader(page)
  assert rows(page, 'Comparison') == [['d', '1.5']]
  assert 'a|b' in found.texts
  # Sample deviation of 0.5 and 0.6.
  assert rows(page, 'Scores') == [
    ['test_top1', '0.5500', '±', '0.0707', '0.9000']
  ]
  assert rows(page, 'Config') == [
    ['seed', '0,', '1', '0'],
    ['distiller.name', 'kd', 'rs'],
  ]
  assert '3 runs · 10 steps · 108 parameters' in found.texts
  assert page.count('<polyline') == 3 and page.count('class="plot"') == 1
  assert re.findall('class="curve (s.)', page) == ['s0', 's0', 's1']
  assert 'kd_seed0, kd_seed1, rsd_seed0 ' in found.texts


def test_several_folders(tmp_path, make_run):
  plain, coic = make_run(tmp_path / 'plain'), make_run(tmp_path / 'coic')
  make_run(coic / 'teacher', model=False)
  make_run(tmp_path / 'many' / 'sub' / 'x')
  figures = tmp_path / 'analysis'
  figures.mkdir()
  Image.new('L', (4, 4)).save(figures / 'map.png')
  parts = read_parts([plain, coic, tmp_path / 'many', figures, plain])
  assert [(part.name, [x.name for x in part.runs]) for part in parts] == [
    ('runs', ['plain', 'coic', 'coic/teacher']),
    ('many', ['sub/x']),
    ('analysis', []),
  ]
  page = write(tmp_path, plain, coic, tmp_path / 'many', figures).read_text()
  texts = Reader(page).texts
  assert '4 runs' in texts and '1 figure' in texts
  assert any('not at its end: coic/teacher' in text for text in texts)
  again = make_run(tmp_path / 'more' / 'plain')
  names = [run.name for run in read_parts([plain, again])[0].runs]
  assert names == [str(plain), str(again)]


def test_run_that_has_just_begun(tmp_path, make_run):
  page = write(tmp_path, make_run(tmp_path / 'run', lines=[], model=False))
  texts = read(page).texts
  assert 'Config' in texts and 'Scores' not in texts and 'Curves' not in texts


def test_scores_that_are_not_finite(tmp_path, make_run):
  names = ('y_8bit_psnr', 'y_8bit_ssim', 'y_8bit_input_psnr')
  lines = [
    {'step': step, **dict(zip(names, (psnr, 1.0, float('inf')), strict=True))}
    for step, psnr in ((1, 30.0), (2, 40.0), (3, float('inf')))
  ]
  for seed in (0, 1):
    make_run(tmp_path / 'runs' / f'x_seed{seed}', lines=lines)
  page = write(tmp_path, tmp_path / 'runs').read_text()
  assert rows(page, 'Scores') == [
    ['all', 'y_8bit', 'inf', 'inf', '1.0000', '±', '0.0000']
  ]
  assert page.count('<polyline') == 4 and 'class="baseline"' not in page
  assert 'step 2: 40' in page and not re.search('points="[^"]*(nan|inf)', page)


def test_many_pictures(tmp_path, make_run, monkeypatch):
  folder = make_run(tmp_path / 'run')
  restored = folder / 'pictures' / 'restored'
  restored.mkdir(parents=True)
  for step in range(1, 31):
    Image.new('RGB', (2, 2)).save(restored / f'{step:08d}.png')
    Image.new('RGB', (2, 2)).save(folder / f'{step}.png')
  monkeypatch.setattr(report.page, 'MOST_FIGURES', 25)
  page = write(tmp_path, folder).read_text()
  steps = [int(x) for x in re.findall('data-step="(.*?)"', page)]
  assert len(steps) == 8 and (steps[0], steps[-1]) == (1, 30)
  texts = Reader(page).texts
  assert '8 of 30 steps' in texts and '5 further figures left out.' in texts


def test_pictures_of_seeds_and_of_the_last_step(
  tmp_path, make_run, add_pictures
):
  for name in ('x_seed0', 'x_seed1', 'y_seed1'):
    add_pictures(make_run(tmp_path / 'runs' / name))
  folder = tmp_path / 'runs' / 'y_seed1' / 'pictures' / 'maps'
  folder.mkdir()
  Image.new('RGB', (2, 2)).save(folder / 'cka.png')
  (part,) = read_parts([tmp_path / 'runs'])
  assert [*part.figures] == [
    'x_seed0/analysis/map.png',
    'x_seed1/analysis/map.png',
    'y_seed1/analysis/map.png',
    'y_seed1/pictures/maps/cka.png',
  ]
  page = write(tmp_path, tmp_path / 'runs').read_text()
  # Of each method the first seed.
  for kind in ('wipe', 'card picture steps wide'):
    shown = page.split(f'class="{kind}"')[1:]
    names = [re.search('class="mono">(.*?)<', x)[1] for x in shown]
    assert names == ['x_seed0', 'y_seed1']
  assert page.count('input, restored, target') == 2


def break_metrics(folder):
  (folder / 'metrics.jsonl').write_text('{"step": 1}\n{\n{"step": 2}\n')


def break_numbers(folder):
  (folder / 'metrics.jsonl').write_text('{"loss": 1}\n')


def break_step(folder):
  (folder / 'metrics.jsonl').write_text('{"step": NaN, "loss": 1}\n')


def break_config(folder):
  (folder / 'config.json').write_text('{')


def remove_config(folder):
  (folder / 'config.json').unlink()


def break_model(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-1])


def break_figure(folder):
  path = folder / 'analysis' / 'map.png'
  path.write_bytes(path.read_bytes()[:-40])


def break_svg(folder):
  (folder / 'a.svg').write_text('')


def remove_after(folder):
  (folder / 'pictures' / 'before_after' / 'rainy_cat_after.png').unlink()


def resize_after(folder):
  path = folder / 'pictures' / 'before_after' / 'rainy_cat_after.png'
  Image.new('RGB', (3, 3)).save(path)


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    (break_metrics, 'metrics.jsonl: line 2 is not JSON'),
    (break_numbers, 'metrics.jsonl: line 1 is not a step with its numbers'),
    (break_step, 'metrics.jsonl: line 1 is not a step with its numbers'),
    (break_config, 'config.json is not JSON'),
    (remove_config, 'config.json is not there'),
    (break_model, 'model.safetensors is not a whole safetensors file'),
    (break_figure, 'map.png is no whole PNG picture'),
    (break_svg, 'a.svg is no SVG picture'),
    (remove_after, 'rainy_cat_after.png is not'),
    (resize_after, 'rainy_cat_after.png differ in size'),
  ],
)
def test_damaged_files(tmp_path, capsys, make_run, add_pictures, damage, words):
  folder = make_run(tmp_path / 'run')
  add_pictures(folder)
  damage(folder)
  output = tmp_path / 'report.html'
  output.write_text('old')
  assert words in failure(capsys, folder, '--output', output)
  assert output.read_text() == 'old'
  assert {x.name for x in tmp_path.iterdir()} == {'run', 'report.html'}


def test_wrong_folders(tmp_path, capsys, make_run):
  folder = make_run(tmp_path / 'run')
  empty = tmp_path / 'empty'
  empty.mkdir()
  output = ('--output', tmp_path / 'report.html')
  assert 'nowhere is not there' in failure(
    capsys, folder, tmp_path / 'nowhere', *output
  )
  assert 'empty holds no run (metrics.jsonl)' in failure(capsys, empty, *output)
  file = folder / 'config.json'
  assert f'{file} is no folder' in failure(capsys, file, *output)
  assert 'is no regular file' in failure(capsys, folder, '--output', empty)
  assert 'gone is not there' in failure(
    capsys, folder, '--output', tmp_path / 'gone' / 'report.html'
  )
  assert not output[1].exists()


def test_help(capsys):
  with pytest.raises(SystemExit, match='0'):
    report.main(['--help'])
  out = capsys.readouterr().out
  assert 'examples:' in out and 'python -m common.report runs/digits' in out


def test_config_values(tmp_path, make_run):
  folder = make_run(
    tmp_path / 'run',
    config={'a': {'b': {'c': None}, 'path': 'x/y'}, 'empty': '', 'l': [1, 2]},
  )
  page = write(tmp_path, folder).read_text()
  assert re.findall('<dt>(.*?)</dt><dd>(.*?)</dd>', page) == [
    ('b.c', 'null'),
    ('path', 'x/<wbr>y'),
    ('empty', '&#x27;&#x27;'),
    ('l', '[1, 2]'),
  ]
  assert json.loads((folder / 'config.json').read_text())['l'] == [1, 2]
