"""CoIC on embedded photos with three kinds of drawn rain, and a fourth to test.

Reproduces no published number: it is the smallest honest run of the method, on
natural photos that need no download. Some minutes on 2 CPU cores.

  python -m coic.compare --config configs/coic/photos.py --workdir runs/photos

Argument: `smoke` shrinks the run to seconds.
"""

import ml_collections

_PRESETS = ('light', 'heavy', 'slanted')
_UNSEEN = ('fine',)


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; `arg` is '' or 'smoke'."""
  if arg not in ('', 'smoke'):
    raise ValueError(f"argument {arg!r} must be empty or 'smoke'")
  smoke = arg == 'smoke'
  num_steps = 4 if smoke else 180

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.train_sets = ml_collections.ConfigDict()
  config.data.test_sets = ml_collections.ConfigDict()
  for preset in (*_PRESETS, *_UNSEEN):
    photos = {'name': 'photos', 'preset': preset}
    if preset in _PRESETS:
      config.data.train_sets[preset] = {**photos, 'split': 'train'}
    config.data.test_sets[preset] = {**photos, 'split': 'test'}
  config.data.weights = ml_collections.ConfigDict()
  config.data.real_sets = ()
  config.data.redraw = True
  config.data.num_images = 1 if smoke else 0
  config.data.num_test_images = 1 if smoke else 0
  config.data.in_memory = False
  config.data.crop = 32 if smoke else 64
  config.data.antialias = False

  config.model = ml_collections.ConfigDict()
  config.model.name = 'brn'
  config.model.weights = ''
  config.model.modulated = True
  config.model.mask_layout = 'paired'
  config.model.iterations = 2 if smoke else 3
  config.model.features = 4 if smoke else 12
  config.model.rain_blocks = 1
  config.model.background_blocks = 1 if smoke else 2
  config.model.remat = False

  config.encoder = ml_collections.ConfigDict()
  config.encoder.features = 4 if smoke else 12

  config.contrast = ml_collections.ConfigDict()
  config.contrast.weight = 0.2
  config.contrast.temperature = 1.0
  config.contrast.momentum = 0.99
  config.contrast.num_negatives = 4
  config.contrast.draws = 'independent'
  config.contrast.rain_bank = 0
  config.contrast.rain_search = 'per_device'

  config.loss = ml_collections.ConfigDict()
  config.loss.name = 'ssim'
  config.loss.explosion_limit = ml_collections.config_dict.placeholder(float)

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.0
  config.optimizer.late_weight_decay = 0.0
  config.optimizer.clip_norm = ml_collections.config_dict.placeholder(float)
  config.optimizer.schedule = ml_collections.ConfigDict()
  config.optimizer.schedule.kind = 'cosine'
  config.optimizer.schedule.final_learning_rate = 1e-5

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 4 if smoke else 6
  config.train.num_steps = num_steps
  config.train.plain_steps = num_steps // 4
  config.train.freeze_network = False
  config.train.on_non_finite = 'stop'
  config.train.log_every_steps = 2 if smoke else 20
  config.train.eval_every_steps = num_steps
  config.train.save_every_steps = num_steps
  config.train.parallelism = 'shard_map'
  config.train.batch_norm = 'per_device'
  config.train.dtype = 'float32'
  config.train.accumulation_steps = 1
  config.train.shard_optimizer = False
  config.train.tensorboard = False
  config.train.pictures = True

  config.eval = ml_collections.ConfigDict()
  config.eval.protocols = ('coic_y',)
  return config.lock()
