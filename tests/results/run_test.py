"""The runner, on an experiment whose command is a line of Python."""

import dataclasses
import json
import shutil

import pytest

from results import collect, environment, progress, run
from results.experiment import Command, Experiment, Metric, Row

# A run of two steps, which is stopped after the first one when it starts.
TRAIN = """
import json, pathlib, sys
import numpy as np
from safetensors.numpy import save_file
folder = pathlib.Path(sys.argv[1]) / 'kd_seed3'
again = folder.exists()
folder.mkdir(exist_ok=True)
config = {'seed': 3, 'data': {'path': sys.argv[2] + '/x.npz'}}
(folder / 'config.json').write_text(json.dumps(config))
with (folder / 'metrics.jsonl').open('a') as file:
  for step in [2, 3] if again else [1]:
    line = {'step': step, 'loss': 1.0, 'steps_per_second': 0.5}
    print(json.dumps(line), file=file)
    score = {1: 0.5, 2: 0.75, 3: 0.25}[step]
    print(json.dumps({'step': step, 'score': score}), file=file)
if not again:
  sys.exit(sys.argv[3] or 0)
save_file({'x': np.zeros(1)}, folder / 'model.safetensors')
"""


def experiment(stop='out of breath', **fields):
  words = ('-c', TRAIN, '{folder}', '{data}', stop)
  return Experiment(
    name='one',
    title='One',
    question='?',
    protocol='score',
    commands=(Command('kd', words),),
    metrics=(Metric('score', 'score'),),
    rows=(Row('kd/kd', 'KD'),),
    **fields,
  )


@pytest.fixture
def start(tmp_path):
  """Runs an experiment, and gives its result."""
  places = {
    'data': str(tmp_path / 'sets'),
    'weights': '',
    'runs': str(tmp_path / 'runs'),
  }

  def once(*experiments, patterns=()):
    run.run(experiments, patterns, places=places, results=tmp_path / 'results')
    path = tmp_path / 'results' / experiments[-1].name / 'result.json'
    return json.loads(path.read_text())

  return once


def test_stopped_command_goes_on_and_is_collected(start, tmp_path, capsys):
  with pytest.raises(run.FailedError, match=r'(?s)breath\n.*one/kd has not'):
    start(experiment())
  folder = tmp_path / 'runs' / 'one'
  first = progress.read(folder, experiment().commands[0])
  assert not first.done and first.seconds > 0
  assert not (tmp_path / 'results').exists()

  result = start(experiment())
  found = result['commands']['kd']
  assert found['seconds'] > first.seconds - 0.1
  assert found['line'].endswith("' {folder} {data} 'out of breath'")
  (here,) = found['environments']
  assert here == environment.describe()
  assert {'revision', 'clean', 'cores', 'processor'} < here.keys()
  assert {'python', 'jax', 'jaxlib', 'numpy'} < here['versions'].keys()
  assert result['config'] == {'seed': 3, 'data.path': '{data}/x.npz'}
  (of_seed,) = result['runs']
  assert (of_seed['run'], of_seed['seed']) == ('kd/kd_seed3', 3)
  assert (of_seed['last_step'], of_seed['training_seconds']) == (3, 6)
  assert of_seed['scores']['score'] == {
    'last': 0.25,
    'best': 0.75,
    'best_step': 2,
    'curve': [[1, 0.5], [2, 0.75], [3, 0.25]],
  }
  assert str(tmp_path) not in json.dumps(result)

  assert start(experiment()) == result  # It is not run again.
  assert 'one/kd: python -c' in capsys.readouterr().out


def test_trainer_that_was_asked_to_end_is_not_done(start):
  with pytest.raises(run.FailedError, match='kd_seed3 was stopped'):
    start(experiment(stop=''))
  assert start(experiment(stop=''))['runs']


def test_changed_command_is_not_mixed_with_the_old_one(start):
  with pytest.raises(run.FailedError):
    start(experiment())
  with pytest.raises(ValueError, match=r'kd is of another command'):
    start(experiment(stop='other'))


def test_other_runs_are_needed_first(start):
  reads = Command('late', ('-c', 'pass', '{runs}/one/kd/kd_seed3'))
  late = dataclasses.replace(
    experiment(), name='two', commands=(reads,), metrics=(), rows=()
  )
  with pytest.raises(ValueError, match='two/late reads the runs of one/kd'):
    start(experiment(), late, patterns=['two'])
  with pytest.raises(run.FailedError):
    start(experiment(), patterns=['one'])
  assert start(experiment(), late)['runs'] == []


def test_images_and_analysis_are_collected(start):
  scores = [
    {
      'weights': 'a/net.npz',
      'sigma': 25.0,
      'name': '1.png',
      'protocol': 'rgb',
      'psnr': 30.0,
      'ssim': 0.9,
      'input_psnr': 20.123456789,
      'input_ssim': 0.5,
    }
  ]
  script = (
    f'import pathlib; p = pathlib.Path(r"{{folder}}"); '
    f"(p / 'scores.json').write_text('''{json.dumps(scores)}'''); "
    "(p / 'analysis.json').write_text('{\"a\": [1.5]}')"
  )
  result = start(
    Experiment('all', 'All', '?', 'rgb', (Command('eval', ('-c', script)),))
  )
  row = ['1.png', 30.0, 0.9, 20.123457, 0.5]
  assert result['images'] == {'eval/net/sigma25': {'rgb': [row]}}
  assert result['analysis'] == {'eval': {'a': [1.5]}}


def test_parts_of_a_result_outlive_their_runs(start, tmp_path):
  """As when its commands are run on one machine after another."""
  (train,) = experiment(stop='').commands
  script, _, data, stop = train.arguments[1:]
  others = ('-c', script, '{folder}', f'{data}/other', stop)
  both = dataclasses.replace(
    experiment(stop=''), commands=(train, Command('late', others))
  )
  for label in ('kd', 'late'):
    with pytest.raises(run.FailedError):
      start(both, patterns=[f'one/{label}'])
    result = start(both, patterns=[f'one/{label}'])
    shutil.rmtree(tmp_path / 'runs')

  assert [*result['commands']] == ['kd', 'late']
  assert result['config'] == {'seed': 3}
  names = {x['run']: x['config']['data.path'] for x in result['runs']}
  assert names == {
    'kd/kd_seed3': '{data}/x.npz',
    'late/kd_seed3': '{data}/other/x.npz',
  }
  changed = dataclasses.replace(
    both, commands=(Command('kd', others), both.commands[1])
  )
  with pytest.raises(run.FailedError):
    start(changed, patterns=['one/late'])
  result = start(changed, patterns=['one/late'])
  assert [*result['commands']] == ['late']
  assert [x['run'] for x in result['runs']] == ['late/kd_seed3']


def test_missing_score_is_named(start):
  other = dataclasses.replace(experiment(), metrics=(Metric('psnr', 'dB'),))
  with pytest.raises(run.FailedError):
    start(other)
  with pytest.raises(ValueError, match=r'kd/kd_seed3 has no score psnr'):
    start(other)


def test_command_line(monkeypatch, tmp_path, capsys):
  failing = Experiment(
    'bad', 'Bad', '?', '', (Command('x', ('-c', 'raise OSError("no disk")')),)
  )
  needing = Experiment(
    'far', 'Far', '?', '', (Command('x', ('-c', '{weights}')),)
  )
  monkeypatch.setattr(run, 'EXPERIMENTS', (failing, needing))
  monkeypatch.setattr(run, 'RUNS', tmp_path)
  run.main(['--list', 'bad/*'])
  assert capsys.readouterr().out.startswith('bad/x\n  python -c')
  for names, message in (
    (['bad'], 'OSError: no disk'),
    (['far'], 'needs a folder for {weights}'),
    (['nothing*'], "'nothing*' fits no command"),
  ):
    with pytest.raises(SystemExit) as stopped:
      run.main(names)
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


def test_written_numbers_stand_on_a_line(tmp_path):
  path = tmp_path / 'one' / 'result.json'
  result = {'curve': [[1, 0.5], [2, 'a, b [c]']], 'none': []}
  collect.write(result, path)
  assert '[1, 0.5],\n' in path.read_text()
  assert json.loads(path.read_text()) == result
