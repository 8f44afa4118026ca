"""CoIC on pairs of your own: two or more folders of rainy and clean images.

  python -m coic.main --config configs/coic/own_pairs.py:2 --workdir runs/mine \
    --config.data.train_sets.set1.folder=DRIZZLE \
    --config.data.train_sets.set2.folder=STORM \
    --config.data.test_sets.set1.folder=DRIZZLE \
    --config.data.test_sets.set2.folder=STORM

Each folder has train/rain, train/norain, test/rain and test/norain; other names
go into `input_folder` and `target_folder`, and regular expressions whose first
group pairs the file names into `input_pattern` and `target_pattern`. Reproduces
no published number. Argument: the number of sets (2), and after a comma `smoke`
to shrink the run to seconds.
"""

import ml_collections


def get_config(arg: str = '2') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  count, _, variant = (arg or '2').partition(',')
  if count == 'smoke':
    count, variant = '2', 'smoke'
  if not count.isdecimal() or int(count) < 1 or variant not in ('', 'smoke'):
    raise ValueError(
      f"argument {arg!r} must be a number of sets, with ',smoke' or without"
    )
  smoke = variant == 'smoke'
  num_steps = 4 if smoke else 40_000

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.train_sets = ml_collections.ConfigDict()
  config.data.test_sets = ml_collections.ConfigDict()
  for i in range(1, int(count) + 1):
    for split, sets in (
      ('train', config.data.train_sets),
      ('test', config.data.test_sets),
    ):
      sets[f'set{i}'] = {
        'name': 'pairs',
        'split': split,
        'folder': '',
        'input_folder': '{split}/rain',
        'target_folder': '{split}/norain',
        'input_pattern': r'(.+)\.\w+',
        'target_pattern': r'(.+)\.\w+',
      }
  config.data.weights = ml_collections.ConfigDict()
  config.data.real_sets = ()
  config.data.redraw = True
  config.data.num_images = 2 if smoke else 0
  config.data.num_test_images = 1 if smoke else 0
  config.data.in_memory = False
  config.data.crop = 32 if smoke else 100
  config.data.antialias = False

  config.model = ml_collections.ConfigDict()
  config.model.name = 'brn'
  config.model.weights = ''
  config.model.modulated = True
  config.model.mask_layout = 'paired'
  config.model.iterations = 2 if smoke else 8
  config.model.features = 4 if smoke else 32
  config.model.remat = False

  config.encoder = ml_collections.ConfigDict()
  config.encoder.features = 4 if smoke else 32

  config.contrast = ml_collections.ConfigDict()
  config.contrast.weight = 0.2
  config.contrast.temperature = 1.0
  config.contrast.momentum = 0.999
  config.contrast.num_negatives = 4
  config.contrast.draws = 'independent'
  config.contrast.rain_bank = 0
  config.contrast.rain_search = 'global'

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
  config.optimizer.schedule.final_learning_rate = 1e-6

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 2 if smoke else 12
  config.train.num_steps = num_steps
  config.train.plain_steps = num_steps // 4
  config.train.freeze_network = False
  config.train.on_non_finite = 'stop'
  config.train.log_every_steps = 2 if smoke else 100
  config.train.eval_every_steps = num_steps if smoke else 5_000
  config.train.save_every_steps = num_steps if smoke else 1_000
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
