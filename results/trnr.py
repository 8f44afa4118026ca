"""Experiments on TRNR: Rain100L and noise, by `trnr.compare`."""

from results.experiment import (
  Command,
  compare,
  Evaluation,
  Experiment,
  Metric,
  Row,
  Value,
)

CONFIG = 'configs/trnr/rain_small.py'
PAIRS = (
  '--config.data.train_input={data}/rain100L_train/rain',
  '--config.data.train_target={data}/rain100L_train/norain',
  '--config.data.test_input={data}/rain100L_test/rain',
  '--config.data.test_target={data}/rain100L_test/norain',
)
METRICS = (
  Metric('trnr_rgb_psnr', 'trnr_rgb: PSNR, dB'),
  Metric('trnr_rgb_ssim', 'SSIM', digits=4),
  Metric('y_8bit_psnr', 'y_8bit: PSNR, dB'),
  Metric('y_8bit_ssim', 'SSIM', digits=4),
)
_PROTOCOL = (
  'The 20 test pairs of Rain100L after {steps} steps of a narrow MSResNet '
  '(55,112 parameters). Protocols trnr_rgb (the test program of TRNR) and '
  'y_8bit (the field).'
)
_NAMES = {
  'rcs': 'TRNR',
  'rbs1': 'RBS-I',
  'rps': 'RPS',
  'rbs2': 'RBS-II, in epochs',
}


def _compare(
  label: str,
  samplings: str,
  num_images: str,
  *options: str,
  config: str = CONFIG,
  seeds: str = '0,1,2',
) -> Command:
  """A network for each number of images, sampling and seed."""
  return compare(
    'trnr',
    label,
    config,
    f'--samplings={samplings}',
    f'--seeds={seeds}',
    f'--num_images={num_images}',
    '--config.train.eval_every_steps=100',
    *options,
  )


def _adapt(label: str, test_set: str) -> Command:
  """The published weights of Rain100L, adapted to pairs of a test set."""
  return Command(
    label,
    (
      *('-m', 'results.adapt_to_pair'),
      *('--weights', '{weights}/trnr/MSResNet-Rain100L-100-TRNR.npz'),
      *('--input', f'{{data}}/{test_set}/rain'),
      *('--target', f'{{data}}/{test_set}/norain'),
      *('--output', '{folder}'),
    ),
  )


def _evaluate(label: str, weights: str, test_set: str) -> Command:
  return Command(
    label,
    (
      *('-m', 'trnr.evaluate'),
      *('--weights', f'{{weights}}/trnr/{weights}.npz'),
      *('--input', f'{{data}}/{test_set}/rain'),
      *('--target', f'{{data}}/{test_set}/norain'),
      *('--output', '{folder}/scores.json'),
    ),
  )


_NOISE = ('rcs', 'rbs1', 'rps')
_KODAK = [f'{{runs}}/trnr_noise/cbsd68/{x}_10_seed0' for x in _NOISE]

PUBLISHED = (
  Experiment(
    name='trnr_published',
    title='TRNR: published weights, published scores',
    question='Do the published MSResNets score here what they score in the '
    'published program?',
    protocol='The 20 + 20 test pairs at hand, whole pictures, by protocols '
    'trnr_rgb (float outputs, as the published test program) and y_8bit (luma '
    'of 8-bit pictures, as the field).',
    commands=(
      _evaluate('rain100l', 'MSResNet-Rain100L-100-TRNR', 'rain100L_test'),
      _evaluate('rain100h', 'MSResNet-Rain100H-250-TRNR', 'rain100H_test'),
    ),
    evaluations=(
      Evaluation(
        'rain100l/MSResNet-Rain100L-100-TRNR',
        'Rain100L, weights of 100 pictures',
        remark='38.170 / 0.9838 (trnr_rgb) on all 100 pairs, whose rainy '
        'pictures have 25.521 / 0.8247',
      ),
      Evaluation(
        'rain100h/MSResNet-Rain100H-250-TRNR',
        'Rain100H, weights of 250 pictures',
        remark='28.682 / 0.8985 (trnr_rgb) on all 100 pairs, cropped to '
        '480x320, whose rainy pictures have 12.126 / 0.3491',
      ),
    ),
    not_run=(
      ('PReNet as a control from outside', 'no network here is PReNet'),
      ('DnCNN as a control from outside', 'no network here is DnCNN'),
    ),
  ),
)

EXPERIMENTS = (
  Experiment(
    name='trnr_sizes',
    title='TRNR against ordinary sampling',
    question='From 5, 10 or 20 pairs of Rain100L, do tasks of clustered '
    'patches (TRNR) beat crops of distinct images (RBS-I), random patches '
    '(RPS) and, on all 20, ordinary epochs (RBS-II)?',
    protocol=_PROTOCOL.format(steps=400)
    + ' All see equally many patches a step.',
    commands=(
      _compare('images_5', 'rcs,rbs1,rps', '5', *PAIRS),
      _compare('images_10', 'rcs,rbs1,rps', '10', *PAIRS),
      _compare('images_20', 'rcs,rbs1,rps,rbs2', '20', *PAIRS, seeds='0,1'),
    ),
    metrics=METRICS,
    rows=tuple(
      Row(f'images_{n}/{name}_{n}', f'{n} images, {title}')
      for n in (5, 10, 20)
      for name, title in _NAMES.items()
      if name != 'rbs2' or n == 20
    ),
    not_run=(('50 and 100 images', '20 training pairs are at hand'),),
  ),
  Experiment(
    name='trnr_equal_time',
    title='TRNR at equal time',
    question='A step on tasks takes longer: what do the others make of as '
    'much time, which is about 1,040 steps here?',
    protocol=_PROTOCOL.format(steps='400 (TRNR) or 1,040'),
    commands=(
      _compare(
        'steps_1040',
        'rbs1,rps',
        '10',
        *PAIRS,
        '--config.train.num_steps=1040',
        seeds='0,1',
      ),
    ),
    metrics=METRICS,
    rows=(
      Row('images_10/rcs_10', '10 images, TRNR, 400 steps', of='trnr_sizes'),
      Row('steps_1040/rbs1_10', '10 images, RBS-I, 1,040 steps'),
      Row('steps_1040/rps_10', '10 images, RPS, 1,040 steps'),
    ),
  ),
  Experiment(
    name='trnr_order',
    title='TRNR: first or second order?',
    question='Does it pay to differentiate through the inner steps?',
    protocol=_PROTOCOL.format(steps=400),
    commands=(
      _compare(
        'second_order',
        'rcs',
        '10',
        *PAIRS,
        '--config.adaptation.first_order=False',
        seeds='0',
      ),
    ),
    metrics=METRICS,
    rows=(
      Row('images_10/rcs_10', '10 images, first order', of='trnr_sizes'),
      Row('second_order/rcs_10', '10 images, second order'),
    ),
  ),
  Experiment(
    name='trnr_tasks',
    title='TRNR: clusters and patches of a task',
    question='N clusters a task and K patches of each: which, for 10 images?',
    protocol=_PROTOCOL.format(steps=400)
    + ' With K 2, clusters of fewer than 4 patches are left out.',
    commands=tuple(
      _compare(
        f'n{n}_k{k}',
        'rcs',
        '10',
        *PAIRS,
        f'--config.sampling.frequencies={n}',
        f'--config.sampling.shots={k}',
        f'--config.sampling.query_shots={k}',
        *([f'--config.patches.smallest_cluster={2 * k}'] if k > 1 else []),
        seeds='0',
      )
      for n, k in ((3, 1), (3, 2), (12, 1))
    ),
    metrics=METRICS,
    rows=(
      Row('n3_k1/rcs_10', 'N 3, K 1, 12 patches a step'),
      Row('n3_k2/rcs_10', 'N 3, K 2, 24 patches a step'),
      Row('images_10/rcs_10', 'N 6, K 1, 24 patches a step', of='trnr_sizes'),
      Row('n12_k1/rcs_10', 'N 12, K 1, 48 patches a step'),
    ),
  ),
  Experiment(
    name='trnr_noise',
    title='TRNR on noise',
    question='Learnt from 10 clean photos, Gaussian noise of any strength up '
    'to 55: do tasks beat the other samplings?',
    protocol='trnr_rgb at sigma 15, 25 and 50 after 400 steps: 10 pictures of '
    'CBSD68, and 4 of Kodak24 with the networks of seed 0. The training photos '
    'are the clean ones of Rain100L, none of which is among these.',
    commands=(
      _compare(
        'cbsd68',
        ','.join(_NOISE),
        '10',
        '--config.data.train_target={data}/rain100L_train/norain',
        '--config.data.test_target={data}/cbsd68',
        config=f'{CONFIG}:noise',
        seeds='0',
      ),
      Command(
        'kodak24',
        (
          *('-m', 'trnr.evaluate'),
          *('--weights', *_KODAK),
          *('--target', *['{data}/kodak24'] * len(_KODAK)),
          *('--sigmas', '15', '25', '50'),
          *('--protocols', 'trnr_rgb'),
          *('--output', '{folder}/scores.json'),
        ),
      ),
    ),
    metrics=tuple(
      Metric(f'sigma{sigma}_trnr_rgb_psnr', f'sigma {sigma}: PSNR, dB')
      for sigma in (15, 25, 50)
    ),
    rows=tuple(
      Row(f'cbsd68/{name}_10', f'CBSD68, {_NAMES[name]}') for name in _NOISE
    ),
    evaluations=tuple(
      Evaluation(
        f'kodak24/{name}_10_seed0/sigma{sigma}',
        f'Kodak24, sigma {sigma}, {_NAMES[name]}',
      )
      for sigma in (15, 25, 50)
      for name in _NOISE
    ),
    not_run=(('the published denoisers', 'their weights are not at hand'),),
  ),
  Experiment(
    name='trnr_adapting',
    title='TRNR: weights adapted to a pair',
    question='Do inner steps on a pair of the set help the published weights '
    'of Rain100L on its other pictures?',
    protocol='trnr_rgb, mean PSNR in dB of 4 whole pictures, and over 3 other '
    'pairs, each of which alone is adapted to: 12 patches of 64 px, the '
    'published rates of the inner steps.',
    commands=(
      _adapt('rain100l', 'rain100L_test'),
      _adapt('rain100h', 'rain100H_test'),
    ),
    values=tuple(
      Value(f'{title}, {what}', (label, key), digits=2)
      for label, title in (
        ('rain100l', 'Rain100L'),
        ('rain100h', 'Rain100H, heavier rain'),
      )
      for key, what in (
        ('input', 'rainy'),
        ('published', 'as published'),
        ('2', '2 steps'),
        ('20', '20 steps'),
        ('2, own statistics', '2 steps, statistics of the patches'),
        ('20, own statistics', '20 steps, statistics of the patches'),
      )
    ),
  ),
)
