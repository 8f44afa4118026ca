"""What no one has tried: parts of one method in another."""

from results import trnr
from results.experiment import Command, Experiment, Row


def _compare(
  label: str, module: str, methods: str, seeds: str, *options: str
) -> Command:
  """Runs of each method, scored as TRNR is."""
  return Command(
    label,
    (
      *('-m', f'results.{module}'),
      *('--config', trnr.CONFIG),
      '--workdir={folder}',
      f'--methods={methods}',
      f'--seeds={seeds}',
      *trnr.PAIRS,
      '--config.train.pictures=False',
      *options,
    ),
  )


def _distil(label: str, methods: str) -> Command:
  return _compare(
    label,
    'distil_derainer',
    methods,
    '0,1',
    '--teacher={weights}/coic/brn_baseline.npz',
    '--config.data.num_images=20',
    '--config.sampling.name=rbs1',
    '--config.sampling.batch_size=12',
    '--config.patches.size=64',
    '--config.train.num_steps=200',
    '--config.train.eval_every_steps=100',
  )


def _on_tasks(label: str, *methods: str) -> Command:
  return _compare(
    label,
    'modulated_tasks',
    ','.join(methods),
    '0,1',
    '--config.data.num_images=10',
    '--config.sampling.frequencies=3',
    '--config.sampling.batch_size=12',
    '--config.model.features=12',
    '--config.train.num_steps=200',
    '--config.train.eval_every_steps=100',
  )


_SCORED = (
  'The 20 test pairs of Rain100L, by protocols trnr_rgb (the test program of '
  'TRNR) and y_8bit (the field), after '
)

EXPERIMENTS = (
  Experiment(
    name='across_rsd',
    title='Across: RSD for a derainer',
    question='The published BRN teaches a narrow MSResNet: does RSD on what '
    'both pool from their last features help, and does it help more than the '
    "teacher's pictures as second targets?",
    protocol=f'{_SCORED}200 steps of 12 crops of 64 px of 20 pairs. For a '
    'seed, all rows share the first weights and the crops. The teacher has '
    'learned from far more pairs; its own scores are in "CoIC: published '
    'weights".',
    commands=(
      _distil('default', 'none,output,rsd'),
      _distil('lighter', 'rsd_tenth'),
    ),
    metrics=trnr.METRICS,
    rows=(
      Row('default/none', 'clean pictures alone'),
      Row('default/output', "and the teacher's, by the same loss"),
      Row('default/rsd', 'and RSD, weight 0.1, the default'),
      Row('lighter/rsd_tenth', 'and RSD, weight 0.01'),
    ),
  ),
  Experiment(
    name='across_tasks',
    title='Across: tasks for a network with CoI-M',
    question='Does a narrow BRN whose kernels follow the picture gain from '
    "TRNR's tasks what a plain one gains?",
    protocol=f'{_SCORED}200 steps of 12 patches of 32 px of 10 pairs; on '
    'tasks, of two tasks of three clusters. The encoder learns from the '
    'restoration alone, without contrastive loss, and from the first step on.',
    commands=(
      _on_tasks('patches', 'rps_plain', 'rps_modulated'),
      _on_tasks('tasks', 'rcs_plain', 'rcs_modulated'),
    ),
    metrics=trnr.METRICS,
    rows=(
      Row('patches/rps_plain', 'random patches, plain'),
      Row('patches/rps_modulated', 'random patches, CoI-M'),
      Row('tasks/rcs_plain', 'tasks, plain'),
      Row('tasks/rcs_modulated', 'tasks, CoI-M'),
    ),
  ),
)
