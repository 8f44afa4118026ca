"""Experiments on RSD: CIFAR-100 at 32 px, by `rsdjax.compare`."""

from results.experiment import Command, compare, Experiment, Metric, Row, Value

_CONFIG = 'configs/rsd/cifar100_small.py'
_DATA = '--config.data.path={data}/cifar100/cifar100_8k.npz'
# The teacher that all students of one kind share.
_TEACHER = '--config.teacher.checkpoint={runs}/rsd_methods/scratch/teacher'
METRICS = (
  Metric('test_top1', 'top-1, %', 100),
  Metric('test_top5', 'top-5, %', 100),
)
_PROTOCOL = (
  'Top-1 and top-5 on 2,000 test pictures of CIFAR-100 after 600 steps of 64 '
  'of 8,000 training pictures. For a seed, all rows share the initial student '
  'and the data order.'
)


def _compare(
  label: str,
  methods: str,
  *options: str,
  pair: str = '',
  seeds: str = '0,1,2',
) -> Command:
  """A student for each method and seed; also a teacher, unless one is named."""
  return compare(
    'rsdjax',
    label,
    f'{_CONFIG}:{pair}' if pair else _CONFIG,
    f'--methods={methods}',
    f'--seeds={seeds}',
    _DATA,
    '--config.train.eval_every_steps=100',
    *options,
  )


def _analyse(label: str, method: str, folder: str) -> Command:
  """Student and teacher before and after training."""
  return Command(
    label,
    (
      *('-m', 'rsdjax.analysis'),
      *('--config', _CONFIG),
      f'--config.distiller.name={method}',
      _DATA,
      _TEACHER,
      f'--checkpoint={{runs}}/rsd_methods/{folder}/{method}_seed0',
      '--output={folder}',
    ),
  )


def _sweep(
  name: str, values: tuple[str, ...], seeds: str
) -> tuple[Command, ...]:
  return tuple(
    _compare(
      f'{name}_{value}',
      'rsd',
      _TEACHER,
      f'--config.distiller.rsd.{name}={value}',
      seeds=seeds,
    )
    for value in values
  )


_SCRATCH = Row('scratch/none', 'scratch', of='rsd_methods')
_FROM_VIT = 'vit_tiny_patch4_32->resnet20'
_KAPPAS = ('0.0', '0.001', '0.1', '1.0')
_WEIGHTS = ('0.01', '0.03', '0.3', '1.0')

EXPERIMENTS = (
  Experiment(
    name='rsd_methods',
    title='RSD and its rivals',
    question='A ResNet-20 teaches a small Vision Transformer: does RSD beat '
    'KD, DKD, DIST and OFA, and does it help on logits or beside KD?',
    protocol=_PROTOCOL,
    commands=(
      _compare('scratch', 'none'),
      _compare('logits', 'kd,dkd,dist', _TEACHER),
      _compare('embeddings', 'ofa,rsd,rsd_logits,rsd+kd', _TEACHER),
    ),
    metrics=METRICS,
    rows=(
      Row('scratch/teacher', 'teacher, 1,800 steps'),
      Row('scratch/none', 'scratch'),
      Row('logits/kd', 'KD'),
      Row('logits/dkd', 'DKD'),
      Row('logits/dist', 'DIST'),
      Row('embeddings/ofa', 'OFA'),
      Row('embeddings/rsd', 'RSD'),
      Row('embeddings/rsd_logits', 'RSD on logits'),
      Row('embeddings/rsd+kd', 'RSD + KD'),
    ),
    not_run=(
      (
        'a teacher with published weights',
        'the published CIFAR-100 ResNets at hand have another stem and no '
        "ReLU after a block's sum; no network here is theirs",
      ),
      ('the 12 + 15 pairs of the paper at 224 px', 'needs accelerators'),
    ),
  ),
  Experiment(
    name='rsd_kappa',
    title='RSD: does decorrelation help?',
    question='kappa weighs the off-diagonal terms; 0 leaves invariance alone.',
    protocol=_PROTOCOL,
    commands=_sweep('kappa', _KAPPAS, seeds='0,1,2'),
    metrics=METRICS,
    rows=(
      _SCRATCH,
      Row('kappa_0.0/rsd', 'kappa 0, invariance only'),
      Row('kappa_0.001/rsd', 'kappa 0.001'),
      Row('embeddings/rsd', 'kappa 0.01, as published', of='rsd_methods'),
      Row('kappa_0.1/rsd', 'kappa 0.1'),
      Row('kappa_1.0/rsd', 'kappa 1'),
    ),
  ),
  Experiment(
    name='rsd_weight',
    title='RSD: how sensitive is it to its weight?',
    question='lambda weighs RSD against the labels.',
    protocol=_PROTOCOL,
    commands=_sweep('weight', _WEIGHTS, seeds='0,1'),
    metrics=METRICS,
    rows=(
      _SCRATCH,
      Row('weight_0.01/rsd', 'lambda 0.01'),
      Row('weight_0.03/rsd', 'lambda 0.03'),
      Row('embeddings/rsd', 'lambda 0.1, the default', of='rsd_methods'),
      Row('weight_0.3/rsd', 'lambda 0.3'),
      Row('weight_1.0/rsd', 'lambda 1'),
    ),
  ),
  Experiment(
    name='rsd_decoupler',
    title='RSD: does the decoupler help?',
    question='A Mixer of width 64, as wide as the embedding of its teacher, '
    'can do without a decoupler.',
    protocol=_PROTOCOL,
    commands=tuple(
      _compare(
        label,
        method,
        _TEACHER,
        '--config.model.width=64',
        *options,
        pair='resnet20->mixer_tiny_patch4_32',
      )
      for label, method, *options in (
        ('scratch', 'none'),
        ('aad', 'rsd'),
        ('linear', 'rsd', '--config.distiller.rsd.decoupler=linear'),
        ('without', 'rsd', '--config.distiller.rsd.decoupler=none'),
      )
    ),
    metrics=METRICS,
    rows=(
      Row('scratch/none', 'scratch'),
      Row('aad/rsd', 'RSD, decoupler as published'),
      Row('linear/rsd', 'RSD, a linear map'),
      Row('without/rsd', 'RSD, no decoupler'),
    ),
  ),
  Experiment(
    name='rsd_statistics',
    title='RSD: statistics of a device or of the whole batch?',
    question='A batch of 64 in groups that keep their statistics apart, as on '
    'so many devices; one group is the global batch.',
    protocol=_PROTOCOL,
    commands=tuple(
      _compare(
        f'groups_{groups}',
        'rsd',
        _TEACHER,
        f'--config.train.groups_per_device={groups}',
        seeds='0,1',
      )
      for groups in (2, 4)
    ),
    metrics=METRICS,
    rows=(
      Row('embeddings/rsd', 'one group of 64, global', of='rsd_methods'),
      Row('groups_2/rsd', '2 groups of 32'),
      Row('groups_4/rsd', '4 groups of 16'),
    ),
  ),
  Experiment(
    name='rsd_students',
    title='RSD: other students',
    question='The same ResNet-20 teaches a Mixer and a ResMLP.',
    protocol=_PROTOCOL,
    commands=tuple(
      _compare(
        name,
        'none,kd,ofa,rsd',
        _TEACHER,
        pair=f'resnet20->{name}_tiny_patch4_32',
        seeds='0,1',
      )
      for name in ('mixer', 'resmlp')
    ),
    metrics=METRICS,
    rows=tuple(
      Row(f'{name}/{method}', f'{title}, {how}')
      for name, title in (('mixer', 'Mixer'), ('resmlp', 'ResMLP'))
      for method, how in (
        ('none', 'scratch'),
        ('kd', 'KD'),
        ('ofa', 'OFA'),
        ('rsd', 'RSD'),
      )
    ),
  ),
  Experiment(
    name='rsd_cnn_student',
    title='RSD: a CNN taught by tokens',
    question='A Vision Transformer and a Mixer teach a ResNet-20.',
    protocol=_PROTOCOL,
    commands=(
      _compare('scratch', 'none', pair=_FROM_VIT, seeds='0,1'),
      _compare(
        'vit',
        'kd,ofa,rsd',
        '--config.teacher.checkpoint={runs}/rsd_cnn_student/scratch/teacher',
        pair=_FROM_VIT,
        seeds='0,1',
      ),
      _compare(
        'mixer',
        'kd,ofa,rsd',
        pair='mixer_tiny_patch4_32->resnet20',
        seeds='0',
      ),
    ),
    metrics=METRICS,
    rows=(
      Row('scratch/none', 'scratch'),
      Row('scratch/teacher', 'ViT, teacher, 1,800 steps'),
      Row('vit/kd', 'ViT, KD'),
      Row('vit/ofa', 'ViT, OFA'),
      Row('vit/rsd', 'ViT, RSD'),
      Row('mixer/teacher', 'Mixer, teacher, 1,800 steps'),
      Row('mixer/kd', 'Mixer, KD'),
      Row('mixer/ofa', 'Mixer, OFA'),
      Row('mixer/rsd', 'Mixer, RSD'),
    ),
  ),
  Experiment(
    name='rsd_similarity',
    title='RSD: how alike do student and teacher become?',
    question='Linear CKA of every stage of the student with every stage of the '
    'teacher, and how far the cross-correlation of the embeddings is from the '
    'identity, before training and after it.',
    protocol='All 2,000 test pictures, seed 0 of the runs above.',
    commands=(
      _analyse('rsd', 'rsd', 'embeddings'),
      _analyse('kd', 'kd', 'logits'),
    ),
    values=(
      *(
        Value(
          f'{method.upper()}: CKA of the embeddings, {when} training',
          (method, when, 'cka', 'embedding', 'embedding'),
        )
        for method in ('rsd', 'kd')
        for when in ('before', 'after')
      ),
      *(
        Value(
          f'RSD: correlation, {what}, {when} training',
          ('rsd', when, 'correlation', key),
        )
        for key, what in (
          ('diagonal', 'mean of the diagonal'),
          ('off_diagonal', 'mean size off the diagonal'),
        )
        for when in ('before', 'after')
      ),
    ),
  ),
)
