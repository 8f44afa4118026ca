"""Whole runs on the embedded images, in this process."""

import pathlib

import jax
import numpy as np
import pytest
from matplotlib import image as matplotlib_image

from common import checkpoints, configuration, distributed, metric_writers
from common.data import datasets
from rsdjax import analysis, compare, evaluate, experiment, main, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {
  'model.depth': 1,
  'train.num_steps': 4,
  'train.batch_size': 16,
  'train.eval_every_steps': 2,
  'train.log_every_steps': 2,
  'teacher.num_steps': 2,
}


def _config(**overrides):
  config = configuration.load(
    str(ROOT / 'configs/rsd/digits.py:smoke'),
    TINY | {name.replace('__', '.'): v for name, v in overrides.items()},
  )
  with config.unlocked():
    config.model.width = 24
    config.teacher.model.update({'depths': (1, 1), 'width': 4})
  return config


@pytest.fixture(scope='module')
def comparison(tmp_path_factory):
  """Scratch and RSD with two seeds, after one teacher."""
  folder = tmp_path_factory.mktemp('comparison')
  return folder, compare.compare(
    _config(), folder, methods=['none', 'rsd'], seeds=[0, 1]
  )


def test_comparison_has_all_runs(comparison):
  folder, result = comparison
  runs = {'none_seed0', 'none_seed1', 'rsd_seed0', 'rsd_seed1', 'teacher'}
  assert {p.name for p in folder.iterdir() if p.is_dir()} == runs
  for curves in result.curves.values():
    assert [[step for step, _ in curve] for curve in curves] == [[2, 4], [2, 4]]
  table = (folder / 'table.md').read_text()
  assert '| scratch |' in table and '| rsd |' in table
  assert matplotlib_image.imread(folder / 'curves.png').shape == (600, 900, 4)


def test_methods_share_the_data_and_differ_in_the_loss(comparison):
  folder, _ = comparison
  lines = {
    run: metric_writers.read_metrics(folder / run)
    for run in ('none_seed0', 'rsd_seed0')
  }
  assert 'rsd' in lines['rsd_seed0'][0] and 'rsd' not in lines['none_seed0'][0]
  assert lines['rsd_seed0'][0]['rsd'] > 0


def test_exported_student_scores_as_reported(comparison):
  """Read back, it gives the same numbers; the decoupler is not in it."""
  folder, result = comparison
  network, variables, scores = experiment.load_network(folder / 'rsd_seed1')
  assert scores['test_top1'] == result.curves['rsd'][1][-1][1]
  assert set(variables) == {'params'}  # A ViT has no batch statistics.
  score = evaluate.make_scorer(
    {'test': network},
    datasets.classification(**_config().data),
    distributed.make_mesh(jax.devices()[:2]),
    batch_size=100,
  )
  again = score({'test': variables})
  assert again['test_top1'] == scores['test_top1']
  np.testing.assert_allclose(
    again['test_cross_entropy'], scores['test_cross_entropy'], rtol=1e-5
  )


def test_evaluation_of_a_run_scores_all_its_networks(comparison):
  folder, result = comparison
  config = _config(teacher__checkpoint=str(folder / 'teacher'))
  scores = evaluate.evaluate(config, folder / 'rsd_seed1')
  assert scores['student_top1'] == result.curves['rsd'][1][-1][1]
  assert scores['teacher_top1'] == result.teacher
  assert 0 <= scores['student_teacher_agreement'] <= 1
  exported = folder / 'rsd_seed1' / experiment.MODEL_FILE
  again = evaluate.evaluate(config, exported)
  for name, value in scores.items():
    np.testing.assert_allclose(again[name], value, rtol=1e-6, err_msg=name)
  with pytest.raises(FileNotFoundError, match='rsd_seed1/teacher'):
    evaluate.evaluate(_config(), exported)  # Beside it, where runs put it.
  best = evaluate.evaluate(config, folder / 'rsd_seed1', which='best')
  assert best['student_top1'] == max(s for _, s in result.curves['rsd'][1])


def test_analysis_of_a_run(comparison, tmp_path):
  folder, _ = comparison
  config = _config(seed=1, teacher__checkpoint=str(folder / 'teacher'))
  result = analysis.analyse(config, folder / 'rsd_seed1', tmp_path)
  stages = ['stage1', 'stage2', 'embedding']
  for found in result.values():
    assert list(found['cka']['decoupled']) == stages
    assert -1 <= found['correlation']['diagonal'] <= 1
  assert result['before'] != result['after']
  for name in ('cka.png', 'correlation.png'):
    assert matplotlib_image.imread(tmp_path / name).size
  with pytest.raises(ValueError, match='there is no teacher'):
    analysis.analyse(_config(distiller__name='none'), folder, tmp_path)


def test_pictures_are_of_rsd_alone(comparison):
  folder, _ = comparison
  of_rsd = folder / 'rsd_seed0' / 'pictures'
  names = ['00000002.png', '00000004.png']
  assert sorted(x.name for x in (of_rsd / 'correlation').iterdir()) == names
  first, last = (
    matplotlib_image.imread(of_rsd / 'correlation' / name) for name in names
  )
  assert first.shape == last.shape and not np.array_equal(first, last)
  assert not (folder / 'none_seed0' / 'pictures').exists()


@pytest.mark.parametrize('trained', [False, True])
def test_dry_run(comparison, tmp_path, trained):
  folder, _ = comparison
  overrides = {'distiller__name': 'none'} if trained else {}
  workdir = folder / 'none_seed0' if trained else tmp_path
  before = {x for x in workdir.rglob('*') if x.is_file()}
  stamps = {x: x.stat().st_mtime_ns for x in before}
  text = main.dry_run(_config(**overrides), workdir)
  assert ('the teacher would be trained first' in text) is not trained
  assert ('terms_rsd/aad' in text) is not trained
  assert 'student: ' in text and '  image  uint8  [16, 8, 8, 3]' in text
  after = {x for x in workdir.rglob('*') if x.is_file()}
  assert after - before == {workdir / 'dry_run' / 'batch.png'}
  assert stamps == {x: x.stat().st_mtime_ns for x in before}


def test_dry_run_needs_a_teacher(tmp_path):
  with pytest.raises(ValueError, match='steps to train the teacher for'):
    main.dry_run(_config(teacher__num_steps=0), tmp_path)


def test_pmap_and_shard_map_train_alike(tmp_path):
  exported = []
  for parallelism in ('shard_map', 'pmap'):
    config = _config(
      distiller__name='none',
      train__parallelism=parallelism,
      train__ema_decay=0.5,
      train__tensorboard=True,
    )
    with config.unlocked():
      config.model = config.teacher.model
      config.optimizer = config.teacher.optimizer
    folder = tmp_path / parallelism
    scores = train.train_and_evaluate(config, folder)
    assert 'ema_test_top1' in scores
    exported.append(checkpoints.load_model(folder / experiment.MODEL_FILE)[0])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    *exported,
  )


def test_teacher_of_another_model_is_named(comparison, tmp_path):
  folder, _ = comparison
  path = tmp_path / 'model.safetensors'
  variables, description = checkpoints.load_model(
    folder / 'teacher' / experiment.MODEL_FILE
  )
  description['model']['depths'] = (1, 2)
  checkpoints.export_model(path, variables, description)
  with pytest.raises(
    ValueError, match=r'is of another model: batch_stats/\S+ is miss'
  ):
    train.train_and_evaluate(
      _config(teacher__checkpoint=str(path)), tmp_path / 'run'
    )


def test_run_folder_of_another_model_is_named(comparison):
  folder, _ = comparison
  config = _config(model__depth=2, teacher__checkpoint=str(folder / 'teacher'))
  with pytest.raises(ValueError, match=r'checkpoints is of another model: '):
    train.train_and_evaluate(config, folder / 'rsd_seed0')


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'train__batch_size': 12}, 'batch_size 12 must be a multiple of the 8'),
    ({'data__name': 'digit'}, "unknown data set 'digit'"),
    ({'distiller__name': 'rds'}, "distiller 'rds' must be none"),
    ({'train__batch_norm': 'local'}, "batch_norm 'local' must be one of"),
    ({'model__name': 'resnet17'}, "unknown network 'resnet17'"),
    ({'loss__name': 'hinge'}, "loss 'hinge' must be one of cross_entropy, bin"),
    ({'train__groups_per_device': 3}, 'groups_per_device 3 must divide'),
    (
      {'train__groups_per_device': 2, 'distiller__rsd__statistics': 'global'},
      'groups_per_device 2 keeps statistics apart',
    ),
    (
      {'train__augmentation_repeats': 3, 'distiller__name': 'rsd+crd'},
      'augmentation_repeats 3 puts an example into a batch more than once',
    ),
  ],
)
def test_wrong_values_are_named(comparison, tmp_path, overrides, message):
  folder, _ = comparison
  overrides['teacher__checkpoint'] = str(folder / 'teacher')
  with pytest.raises(ValueError, match=message):
    train.train_and_evaluate(_config(**overrides), tmp_path)
