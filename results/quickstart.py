"""What `make quickstart` trains: the three methods on embedded images."""

from results import rsd, trnr
from results.experiment import compare, Experiment, Metric, Row

_SETS = {
  'light': 'light',
  'heavy': 'heavy',
  'slanted': 'slanted',
  'fine': 'fine, not trained on',
}

EXPERIMENTS = (
  Experiment(
    name='quickstart_rsd',
    title='Quickstart: RSD',
    question='Handwritten digits: a ResNet-20 teaches small Vision '
    'Transformers from 300 pictures.',
    protocol='Top-1 and top-5 on the other digits after 300 steps. For a seed, '
    'all rows share the initial student and the data order.',
    commands=(
      compare(
        'rsdjax',
        'digits',
        'configs/rsd/digits.py',
        '--methods=none,kd,rsd',
        '--seeds=0,1,2',
      ),
    ),
    metrics=rsd.METRICS,
    rows=(
      Row('digits/teacher', 'teacher'),
      Row('digits/none', 'scratch'),
      Row('digits/kd', 'KD'),
      Row('digits/rsd', 'RSD'),
    ),
  ),
  Experiment(
    name='quickstart_trnr',
    title='Quickstart: TRNR',
    question='Embedded photos in drawn rain: five to learn from.',
    protocol='Two test photos after 250 steps of a narrow MSResNet. Protocols '
    'trnr_rgb (the test program of TRNR) and y_8bit (the field).',
    commands=(
      compare(
        'trnr',
        'photos',
        'configs/trnr/photos.py',
        '--samplings=rcs,rbs1',
        '--seeds=0',
      ),
    ),
    metrics=trnr.METRICS,
    rows=(
      Row('photos/rcs_0', 'TRNR'),
      Row('photos/rbs1_0', 'RBS-I'),
    ),
  ),
  Experiment(
    name='quickstart_coic',
    title='Quickstart: CoIC',
    question='Embedded photos in three kinds of drawn rain, and in a fourth '
    'to test on: a narrow BRN.',
    protocol='Protocol coic_y on two photos after 180 steps. The last columns '
    'are PSNR, dB, in each kind of rain.',
    commands=(
      compare(
        'coic',
        'photos',
        'configs/coic/photos.py',
        '--methods=baseline,coic',
        '--seeds=0',
      ),
    ),
    metrics=(
      Metric('mean_coic_y_psnr', 'mean of sets: PSNR, dB'),
      Metric('mean_coic_y_ssim', 'SSIM', digits=4),
      *(Metric(f'{x}_coic_y_psnr', title) for x, title in _SETS.items()),
    ),
    rows=(
      Row('photos/baseline', 'plain network'),
      Row('photos/coic', 'CoIC'),
    ),
  ),
)
