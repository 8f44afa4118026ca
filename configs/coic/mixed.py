"""CoIC on the published mixture of deraining sets, for all five networks.

Argument: a network, then what differs, with commas:

  brn | rcdnet | dgunet | idt | drsformer
  coic (two stages) | baseline (the first stage for the whole run)
  spa (SPA-Data too: as many of its real pairs as there are synthetic ones)
  mended (schedules as they were meant, where the published ones slip)
  smoke (seconds on a CPU: tiny networks, on embedded photos with drawn rain)

'drsformer,coic,spa' is the published DRSformer. Its PSNR as published (dB, luma
of CoIC's protocol), without and with CoIC: Rain200L 39.32, 39.70; Rain200H
29.27, 30.31; Rain800 28.85, 29.73; DID 34.91, 35.02; DDN 33.71, 33.94; SPA
45.46, 46.03. The scores of the other networks were not available. No run of
this length has been made here; it needs accelerators.

  python -m coic.main --config configs/coic/mixed.py:brn,coic \
    --workdir runs/brn_coic --config.data.train_sets.rain200l.folder=Rain200L \
    --config.data.test_sets.rain200l.folder=Rain200L ...

Each set (rain200l, rain200h, rain800, did, ddn, spa) has its folder under
`data.train_sets` and `data.test_sets`.
"""

import ml_collections

_SETS = ('rain200l', 'rain200h', 'rain800', 'did', 'ddn')
# Crop, batch size, steps of the first stage, of an epoch and of the run; loss;
# rain bank. From the published scripts; those that count from 0 make one more
# step in the first stage.
_RECIPES = {
  'brn': (100, 12, 40_001, 2_409, 260_000, 'ssim', 0),
  'rcdnet': (64, 16, 40_001, 1_807, 260_000, 'rcdnet', 64),
  'dgunet': (128, 16, 40_001, 1_807, 400_000, 'dgunet', 64),
  'idt': (128, 8, 40_001, 3_613, 397_430, 'ssim', 0),
  'drsformer': (128, 4, 40_000, 7_225, 400_000, 'l1', 64),
}
_SCHEDULES = {
  'brn': {'kind': 'milestones', 'milestones': (30, 50, 80), 'factor': 0.2},
  'rcdnet': {'kind': 'milestones', 'milestones': (25, 50, 75), 'factor': 0.2},
  'dgunet': {'kind': 'cosine', 'final_learning_rate': 1e-6},
  # Of 110 epochs, only the first milestone is reached, near the end.
  'idt': {'kind': 'milestones', 'milestones': (100, 250, 350), 'factor': 0.1},
  'drsformer': {'kind': 'drsformer_published', 'final_learning_rate': 1e-6},
}
_MENDED_SCHEDULES = {
  # As for the 400 short epochs that the milestones were made for.
  'idt': {'kind': 'milestones', 'milestones': (27, 69, 96), 'factor': 0.1},
  'drsformer': {'kind': 'hold_cosine', 'final_learning_rate': 1e-6},
}
_LEARNING_RATES = {
  'brn': 1e-3,
  'rcdnet': 1e-3,
  'dgunet': 2e-4,
  'idt': 1e-4,
  'drsformer': 3e-4,
}
_SMOKE_MODELS = {
  'brn': {'features': 4, 'iterations': 2, 'rain_blocks': 1},
  'rcdnet': {'stages': 2, 'maps': 4, 'extra_features': 4, 'blocks': 1},
  'dgunet': {'features': 8, 'step': 4, 'extra': 4, 'iterations': 1},
  'idt': {
    'features': 4,
    'blocks': (1,) * 9,
    'heads': (1,) * 9,
    'image_size': 32,
    'window_size': 2,
  },
  'drsformer': {'features': 8, 'blocks': (1, 1, 1, 1), 'expert_steps': 1},
}
_MODES = ('coic', 'baseline')


def get_config(arg: str = 'brn') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  name, mode, options = 'brn', 'coic', set()
  for word in filter(None, arg.split(',')):
    if word in _RECIPES:
      name = word
    elif word in _MODES:
      mode = word
    elif word in ('spa', 'mended', 'smoke'):
      options.add(word)
    else:
      raise ValueError(
        f'argument {word!r} must be one of '
        f'{[*_RECIPES, *_MODES, "spa", "mended", "smoke"]}'
      )
  smoke = 'smoke' in options
  crop, batch_size, plain_steps, steps_per_epoch, num_steps, loss, bank = (
    _RECIPES[name]
  )
  schedule = _SCHEDULES[name]
  if 'mended' in options:
    schedule = _MENDED_SCHEDULES.get(name, schedule)
  if smoke:
    crop, batch_size, plain_steps, num_steps = 32, 2, 2, 4
    bank = min(bank, 4)

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.train_sets = ml_collections.ConfigDict()
  config.data.test_sets = ml_collections.ConfigDict()
  if smoke:
    for preset in ('light', 'heavy'):
      for split, sets in (
        ('train', config.data.train_sets),
        ('test', config.data.test_sets),
      ):
        sets[preset] = {'name': 'photos', 'split': split, 'preset': preset}
  else:
    sets = (*_SETS, 'spa') if 'spa' in options else _SETS
    for one in sets:
      config.data.train_sets[one] = {
        'name': one,
        'split': 'train',
        'folder': '',
      }
      config.data.test_sets[one] = {'name': one, 'split': 'test', 'folder': ''}
  config.data.weights = ml_collections.ConfigDict()
  spa = 'spa' in options and not smoke
  config.data.real_sets = ('spa',) if spa else ()
  config.data.redraw = name == 'drsformer'
  config.data.num_images = 1 if smoke else 0
  config.data.num_test_images = 1 if smoke else 0
  config.data.in_memory = False
  config.data.crop = crop
  config.data.antialias = False

  config.model = ml_collections.ConfigDict()
  config.model.name = name
  config.model.weights = ''
  config.model.modulated = mode == 'coic'
  config.model.mask_layout = 'published'
  config.model.remat = False
  if name == 'rcdnet':
    # The published .npz of 32 kernels; without it, kernels are rendered.
    config.model.rain_kernels = ''
  if smoke:
    config.model.update(_SMOKE_MODELS[name])

  config.encoder = ml_collections.ConfigDict()
  config.encoder.features = 4 if smoke else 32

  config.contrast = ml_collections.ConfigDict()
  # The script of RCDNet has 50, its published command 0.2.
  config.contrast.weight = 0.2
  config.contrast.temperature = 1.0
  config.contrast.momentum = 0.999
  config.contrast.num_negatives = 4
  config.contrast.draws = 'independent'
  config.contrast.rain_bank = bank
  config.contrast.rain_search = 'per_device'

  config.loss = ml_collections.ConfigDict()
  config.loss.name = loss
  config.loss.explosion_limit = ml_collections.config_dict.placeholder(float)
  if name == 'dgunet':
    config.loss.explosion_limit = 10.0

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = _LEARNING_RATES[name]
  config.optimizer.weight_decay = 0.0
  config.optimizer.late_weight_decay = 0.0
  config.optimizer.clip_norm = ml_collections.config_dict.placeholder(float)
  if name == 'drsformer':
    config.optimizer.name = 'adamw'
    config.optimizer.decay_all = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.late_weight_decay = 1e-2
    config.optimizer.clip_norm = 0.01
  config.optimizer.schedule = ml_collections.ConfigDict(schedule)
  if schedule['kind'] in ('milestones', 'cosine'):
    config.optimizer.schedule.steps_per_epoch = 1 if smoke else steps_per_epoch

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = batch_size
  config.train.num_steps = num_steps
  config.train.plain_steps = plain_steps
  config.train.freeze_network = False
  config.train.on_non_finite = 'skip' if name == 'dgunet' else 'stop'
  config.train.log_every_steps = 2 if smoke else 100
  config.train.eval_every_steps = num_steps if smoke else 20_000
  config.train.save_every_steps = num_steps if smoke else 2_000
  config.train.parallelism = 'shard_map'
  config.train.batch_norm = 'per_device'
  config.train.dtype = 'float32'
  config.train.accumulation_steps = 1
  config.train.shard_optimizer = False
  config.train.tensorboard = False
  config.train.pictures = True

  config.eval = ml_collections.ConfigDict()
  config.eval.protocols = ('coic_y', 'matlab_y')
  return config.lock()
