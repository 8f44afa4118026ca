"""Experiments on CoIC: mixed deraining, by `coic.compare`."""

from results.experiment import (
  Command,
  compare,
  Evaluation,
  Experiment,
  Metric,
  Row,
  Value,
)

_CONFIG = 'configs/coic/mixed_small.py:unseen'
_FOLDERS = (
  '--config.data.train_sets.rain100l.folder={data}/rain100L_train',
  '--config.data.train_sets.rain800.folder={data}/rain800',
  '--config.data.test_sets.rain100l.folder={data}/rain100L_test',
  '--config.data.test_sets.rain800.folder={data}/rain800',
  '--config.data.test_sets.rain100h.folder={data}/rain100H_test',
)
_METRICS = (
  Metric('mean_coic_y_psnr', 'mean of sets: PSNR, dB'),
  Metric('mean_coic_y_ssim', 'SSIM', digits=4),
  Metric('rain100l_coic_y_psnr', 'Rain100L'),
  Metric('rain800_coic_y_psnr', 'Rain800'),
  Metric('heavy_coic_y_psnr', 'heavy'),
  Metric('rain100h_coic_y_psnr', 'Rain100H, not trained on'),
  Metric('slanted_coic_y_psnr', 'slanted, not trained on'),
)
_PROTOCOL = (
  'Protocol coic_y after 400 steps of 6 crops of 64 px, drawn equally often '
  'from Rain100L (20 pairs), Rain800 (8 pairs) and embedded photos with heavy '
  'drawn rain. The last five columns are PSNR, dB, on each set.'
)


def _compare(
  label: str,
  methods: str,
  seeds: str,
  *options: str,
  config: str = _CONFIG,
) -> Command:
  """A derainer for each method and seed."""
  return compare(
    'coic',
    label,
    config,
    f'--methods={methods}',
    f'--seeds={seeds}',
    *_FOLDERS,
    '--config.train.num_steps=400',
    '--config.train.plain_steps=100',
    '--config.train.eval_every_steps=200',
    '--config.train.save_every_steps=200',
    *options,
  )


def _evaluate(label: str, weights: str, *options: str) -> Command:
  return Command(
    label,
    (
      *('-m', 'coic.evaluate'),
      *('--weights', f'{{weights}}/coic/{weights}.npz'),
      *('--model', 'brn', '--split', 'none'),
      *('--set', 'rain100l={data}/rain100L_test'),
      *('--set', 'rain100h={data}/rain100H_test'),
      *options,
      *('--output', '{folder}/scores.json'),
    ),
  )


PUBLISHED = (
  Experiment(
    name='coic_published',
    title='CoIC: published weights, published scores',
    question='Does the published BRN score here what another program measured '
    'with the same weights on the same pictures?',
    protocol='The 20 + 20 test pairs at hand, whole pictures, by protocols '
    'coic_y (the test program of CoIC) and matlab_y. The encoder of CoIC was '
    'never published, so z = 0.',
    commands=(
      _evaluate('baseline', 'brn_baseline'),
      _evaluate('coic', 'brn_coic', '--zero_embedding'),
    ),
    evaluations=(
      Evaluation(
        'baseline/rain100l',
        'Rain100L, without CoIC',
        reference=('coic_y', 36.94, 0.9751),
      ),
      Evaluation(
        'baseline/rain100h',
        'Rain100H, without CoIC',
        reference=('coic_y', 29.30, 0.8836),
      ),
      Evaluation(
        'coic/rain100l',
        'Rain100L, with CoIC, z = 0',
        reference=('coic_y', 35.62, 0.9634),
      ),
      Evaluation(
        'coic/rain100h',
        'Rain100H, with CoIC, z = 0',
        reference=('coic_y', 28.59, 0.8831),
      ),
    ),
    not_run=(
      (
        'RCDNet, DGUNet, IDT and DRSformer',
        'their weights were not published, or are not at hand',
      ),
    ),
  ),
)

EXPERIMENTS = (
  Experiment(
    name='coic_parts',
    title='CoIC against its parts',
    question='A narrow BRN on mixed rain: does modulation help, and does the '
    'contrastive loss help it, on sets trained on and on others?',
    protocol=_PROTOCOL,
    commands=(
      _compare('baseline', 'baseline', '0,1'),
      _compare('modulated', 'modulated', '0,1'),
      _compare('coic', 'coic', '0,1'),
    ),
    metrics=_METRICS,
    rows=(
      Row('baseline/baseline', 'plain network'),
      Row('modulated/modulated', 'CoI-M, no contrastive loss'),
      Row('coic/coic', 'CoIC'),
    ),
    not_run=(('the published mixture, five networks', 'needs accelerators'),),
  ),
  Experiment(
    name='coic_transformer',
    title='CoIC on a Transformer',
    question='The same for a narrow DRSformer.',
    protocol=_PROTOCOL,
    commands=tuple(
      _compare(
        method,
        method,
        '0',
        config=f'{_CONFIG},drsformer',
      )
      for method in ('baseline', 'modulated', 'coic')
    ),
    metrics=_METRICS,
    rows=(
      Row('baseline/baseline', 'plain network'),
      Row('modulated/modulated', 'CoI-M, no contrastive loss'),
      Row('coic/coic', 'CoIC'),
    ),
  ),
  Experiment(
    name='coic_contrast',
    title='CoIC: temperature and negatives',
    question='How much do the temperature and the number of negatives of the '
    'contrastive loss matter?',
    protocol=_PROTOCOL,
    commands=tuple(
      _compare(
        f'{field}_{value}', 'coic', '0', f'--config.contrast.{field}={value}'
      )
      for field, value in (
        ('temperature', '0.25'),
        ('temperature', '4.0'),
        ('num_negatives', '1'),
        ('num_negatives', '8'),
      )
    ),
    metrics=_METRICS,
    rows=(
      Row('coic/coic', 'temperature 1, 4 negatives', of='coic_parts'),
      Row('temperature_0.25/coic', 'temperature 0.25'),
      Row('temperature_4.0/coic', 'temperature 4'),
      Row('num_negatives_1/coic', '1 negative'),
      Row('num_negatives_8/coic', '8 negatives'),
    ),
  ),
  Experiment(
    name='coic_embedding',
    title='CoIC: what the encoder sees',
    question='Are data sets apart in the embedding, and does it follow rain '
    'or detail?',
    protocol='16 pictures of each set, the encoder of seed 0 of CoIC above. '
    'Similarity is the mean cosine of the embeddings of two sets.',
    commands=(
      Command(
        'sets',
        (
          *('-m', 'coic.analysis'),
          *('--weights', '{runs}/coic_parts/coic/coic_seed0'),
          *('--split', 'none'),
          *('--set', 'rain100l={data}/rain100L_test'),
          *('--set', 'rain100h={data}/rain100H_test'),
          *('--set', 'rain800={data}/rain800/test'),
          *('--set', 'photos:heavy'),
          *('--set', 'photos:slanted'),
          *('--output', '{folder}'),
        ),
      ),
    ),
    values=(
      Value(
        'similarity of Rain100L with itself',
        ('sets', 'similarity', 'rain100l', 'rain100l'),
      ),
      Value(
        'similarity of Rain100L with its clean pictures',
        ('sets', 'similarity', 'rain100l', 'rain100l, clean'),
      ),
      Value(
        'similarity of Rain100L with Rain100H',
        ('sets', 'similarity', 'rain100l', 'rain100h'),
      ),
      Value(
        'similarity of Rain100L with photos in heavy rain',
        ('sets', 'similarity', 'rain100l', 'photos:heavy'),
      ),
      *(
        Value(
          f'impact of {what}, pictures of {density} rain',
          ('sets', 'impact', i, what),
        )
        for density, i in (('the least', 0), ('the most', -1))
        for what in ('rain', 'detail')
      ),
    ),
  ),
  Experiment(
    name='coic_fitted',
    title='CoIC: how much could modulation help?',
    question='The published BRN with CoI-M, whose encoder was never published: '
    'how good is the best embedding for a picture, and how good is it for '
    'another of the same set?',
    protocol='coic_y, PSNR in dB of the middle 96 x 96 pixels of two pictures '
    'of Rain100L. The embedding is fitted to the first in 20 steps, with its '
    'clean picture in sight.',
    commands=(
      Command(
        'rain100l',
        (
          *('-m', 'coic.fit_embedding'),
          *('--weights', '{weights}/coic/brn_coic.npz', '--model', 'brn'),
          *('--input', '{data}/rain100L_test/rain/001.png'),
          *('--target', '{data}/rain100L_test/norain/001.png'),
          *('--second_input', '{data}/rain100L_test/rain/002.png'),
          *('--second_target', '{data}/rain100L_test/norain/002.png'),
          *('--crop', '96', '--num_steps', '20'),
          *('--scores', '{folder}/analysis.json'),
        ),
      ),
    ),
    values=tuple(
      Value(f'{title}, {what}', ('rain100l', picture, key), digits=2)
      for picture, title in (
        ('first', 'fitted picture'),
        ('second', 'other picture'),
      )
      for key, what in (
        ('input', 'rainy'),
        ('z = 0', 'z = 0'),
        ('random z', 'a random z'),
        ('fitted z', 'the fitted z'),
      )
    ),
  ),
)
