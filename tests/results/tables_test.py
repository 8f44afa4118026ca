"""Pages and figures are those of the results, and nothing else."""

import dataclasses
import json
import re

import pytest

from results import collect, figures, tables
from results.experiment import (
  Command,
  Evaluation,
  Experiment,
  Metric,
  Row,
  Value,
)

KD, RSD, EVALUATE = (Command(x, ('-m', x)) for x in ('kd', 'rsd', 'evaluate'))
PLACE = {
  'revision': '0123456789abcdef',
  'clean': True,
  'versions': {'python': '3.11', 'jax': '0.10'},
  'cores': 2,
  'processor': 'a processor',
}
METRICS = (Metric('top1', 'top-1, %', 100), Metric('y_psnr', 'PSNR', digits=1))
RUNS = Experiment(
  name='runs',
  title='Runs',
  question='Which?',
  protocol='Top-1.',
  commands=(KD, RSD),
  metrics=METRICS,
  rows=(Row('kd/kd', 'KD'), Row('rsd/rsd', 'RSD')),
  not_run=(('ImageNet', 'too large'),),
)
SCORED = Experiment(
  name='scored',
  title='Scored',
  question='As published?',
  protocol='rgb.',
  commands=(EVALUATE,),
  metrics=METRICS,
  rows=(Row('kd/kd', 'KD, borrowed', of='runs'),),
  evaluations=(
    Evaluation('evaluate/a', 'A', reference=('rgb', 29.96, 0.89)),
    Evaluation('evaluate/b', 'B'),
  ),
  values=(Value('first', ('evaluate', 'x', 0)), Value('none', ('kd', 'x'))),
)
EXPERIMENTS = (RUNS, SCORED)


def curve(*values):
  points = [[100 * i, x] for i, x in enumerate(values, 1)]
  step, best = max(points, key=lambda point: point[1])
  return {
    'last': values[-1],
    'best': best,
    'best_step': step,
    'curve': points,
  }


def result(experiment, *labels, **fields):
  return {
    'commands': {
      label: {
        'line': experiment.command(label).line,
        'seconds': 90.0,
        'environments': [PLACE],
      }
      for label in labels
    },
    'runs': [],
    'images': {},
    'analysis': {},
    **fields,
  }


OF_RUNS = result(
  RUNS,
  'kd',
  runs=[
    {
      'run': f'kd/kd_seed{seed}',
      'seed': seed,
      'training_seconds': 60.0 * (seed + 1),
      'scores': {
        'top1': curve(*values),
        'y_psnr': {'last': 30.0 + seed},
        'y_input_psnr': {'last': 20.0},
      },
    }
    for seed, values in enumerate(((0.1, 0.4, 0.2), (0.1, 0.2, 0.4)))
  ],
)
OF_SCORED = result(
  SCORED,
  'evaluate',
  images={
    'evaluate/a': {
      'rgb': [['1', 29.0, 0.8, 19.0, 0.4], ['2', 31.0, 1.0, 21.0, 0.6]]
    }
  },
  analysis={'evaluate': {'x': [0.25]}},
)
RESULTS = {'runs': OF_RUNS, 'scored': OF_SCORED}


def test_table_of_runs():
  (table,) = tables.tables(RUNS, RESULTS)
  assert table.splitlines() == [
    '|  | seeds | top-1, % | PSNR | best top-1, % | at step | minutes |',
    '|---|---|---|---|---|---|---|',
    '| degraded pictures |  |  | 20.0 |  |  |  |',
    '| KD | 2 | 30.00 ± 14.14 | 30.5 ± 0.7 | 40.00 ± 0.00 | 200..300 | 1.5 |',
    '| RSD | not run |  |  |  |  |  |',
    '| ImageNet (too large) | not run |  |  |  |  |  |',
  ]


def test_tables_of_pictures_and_values():
  runs, pictures, values = tables.tables(SCORED, RESULTS)
  assert runs.splitlines()[-1].startswith('| KD, borrowed | 2 | 30.00')
  assert pictures.splitlines() == [
    '| PSNR, dB / SSIM | pictures | rgb, input | rgb, restored | reference |',
    '|---|---|---|---|---|',
    '| A | 2 | 20.000 / 0.5000 | 30.000 / 0.9000 | '
    'rgb: 29.96 / 0.8900; ours +0.040 dB |',
    '| B | not run |  |  |  |',
  ]
  assert values.splitlines()[2:] == ['| first | 0.250 |', '| none | not run |']


def test_without_any_result():
  for table in tables.tables(SCORED, {}):
    rows = table.splitlines()[2:]
    assert rows and all(' | not run |' in row for row in rows)
  assert 'All numbers' not in tables.render(SCORED, {})


def test_one_seed_has_no_deviation():
  one = {**OF_RUNS, 'runs': OF_RUNS['runs'][:1]}
  (table,) = tables.tables(RUNS, {'runs': one})
  assert '| KD | 1 | 20.00 | 30.0 | 40.00 | 200 | 1.0 |' in table


def test_render_says_where_it_was_run():
  text = tables.render(RUNS, RESULTS, to_root='../')
  assert text.startswith('Which?\n\nTop-1.\n\n|  | seeds')
  assert '![Runs](../docs/images/results_runs.svg)' in text
  assert text.endswith(
    'Seeds 0, 1; 1.5 minutes on 2 cores of a processor; revision '
    '`0123456789ab`; python 3.11, jax 0.10. [All numbers]'
    '(../results/runs/result.json).'
  )
  assert '.svg' not in tables.render(RUNS, RESULTS, only_tables=True)
  changed = {**PLACE, 'clean': False}
  commands = {'kd': {**OF_RUNS['commands']['kd'], 'environments': [changed]}}
  said = tables.provenance({**OF_RUNS, 'commands': commands})
  assert '`0123456789ab` with changes;' in said


@pytest.fixture
def root(tmp_path):
  """A repository with a README, a page and the results."""
  (tmp_path / 'docs').mkdir()
  mark = '<!-- results: runs{} -->\nold\n<!-- /results -->\nafter\n'
  (tmp_path / 'README.md').write_text('before\n' + mark.format(' table'))
  (tmp_path / 'docs' / 'results.md').write_text(mark.format(''))
  for name, found in RESULTS.items():
    (tmp_path / 'results' / name).mkdir(parents=True)
    (tmp_path / 'results' / name / 'result.json').write_text(json.dumps(found))
  return tmp_path


def run(root, *arguments, experiments=EXPERIMENTS):
  tables.main(arguments, root=root, experiments=experiments)


def test_pages_and_figures_are_made_and_checked(root):
  with pytest.raises(SystemExit, match=r'README.md.*_runs.svg, .*: not as'):
    run(root, '--check')
  run(root)
  run(root, '--check')
  page = (root / 'README.md').read_text()
  assert page.startswith('before\n<!-- results: runs table -->\n|  | seeds')
  assert page.endswith('<!-- /results -->\nafter\n') and 'svg' not in page
  figure = root / 'docs' / 'images' / 'results_runs.svg'
  made = figure.read_text()
  assert '>KD</text>' in made and '<dc:date>' not in made
  assert figures.version_of(made) == figures.installed_version()

  figure.write_text(made.replace('KD', 'RSD'))
  with pytest.raises(SystemExit, match=r'^docs/images/results_runs.svg'):
    run(root, '--check')
  # Another version of matplotlib: nothing can be said, but it is made anew.
  version = f'Matplotlib v{figures.installed_version()}'
  figure.write_text(made.replace(version, 'Matplotlib v1.0'))
  run(root, '--check')
  run(root)
  assert figure.read_text() == made

  left = figure.with_name('results_gone.svg')
  left.write_text('')
  with pytest.raises(SystemExit, match='results_gone'):
    run(root, '--check')
  run(root)
  assert not left.exists()


def test_stale_page_is_found(root):
  run(root)
  path = root / 'results' / 'runs' / 'result.json'
  path.write_text(path.read_text().replace('31.0', '33.0'))
  with pytest.raises(SystemExit, match=r'^README.md, docs/results.md: not'):
    run(root, '--check')


def test_results_of_other_commands_are_refused(root):
  other = dataclasses.replace(RUNS, commands=(Command('kd', ('-m', 'new')),))
  with pytest.raises(SystemExit, match=r'(?s)run as\npython -m kd\nand is now'):
    run(root, experiments=(other, SCORED))
  with pytest.raises(SystemExit, match="there is no experiment 'runs'"):
    run(root, experiments=(SCORED,))


@pytest.mark.parametrize(
  ('page', 'message'),
  [
    ('<!-- results: runs -->\n', 'do not pair'),
    ('<!-- /results -->\n', 'do not pair'),
    (2 * '<!-- results: runs -->\n' + '<!-- /results -->', 'do not pair'),
    ('<!-- results: other -->\n<!-- /results -->', "no experiment 'other'"),
  ],
)
def test_wrong_marks(page, message):
  with pytest.raises(ValueError, match=message):
    tables.with_tables(page, EXPERIMENTS, RESULTS)


def test_figures_of_analyses():
  cka = {'stage1': {'a': 0.5, 'b': 0.1}, 'embedding': {'a': 0.2, 'b': 1.0}}
  similar = {'rsd': {'before': {'cka': cka}, 'after': {'cka': cka}}}
  svg = figures.draw(SCORED, {'scored': {'analysis': similar}})
  assert 'rsd, after training' in svg and '<image' not in svg
  points = {'light': [[0.0, 1.0], [1.0, 0.0]], 'heavy': [[2.0, 1.0]]}
  found = {'sets': {'map': {'method': 'PCA', 'points': points}}}
  svg = figures.draw(SCORED, {'scored': {'analysis': found}})
  assert '>PCA</text>' in svg and '>heavy</text>' in svg
  assert svg == figures.draw(SCORED, {'scored': {'analysis': found}})


def test_pages_of_the_repository_are_those_of_the_results():
  tables.main(['--check'])


def test_results_name_no_folder_of_a_machine():
  files = sorted(collect.RESULTS.glob('*/result.json'))
  assert files
  for file in files:
    absolute = re.findall(r'["=\s](/[\w.]+/[^"\s]*)', file.read_text())
    assert not absolute, f'{file}: {absolute[:3]}'
