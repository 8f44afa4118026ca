"""CoIC on a small mixture of two real sets and drawn rain, for one hour.

Rain100L (20 pairs), Rain800 (8 pairs) and embedded photos with heavy drawn
rain are drawn from equally often; the same sets and one that is not trained on,
Rain100H, are scored. Reproduces no published number: it is the largest fair
comparison of CoIC with its parts that fits 2 CPU cores and one hour.

  python -m coic.compare --config configs/coic/mixed_small.py \
    --workdir runs/mixed_small \
    --config.data.train_sets.rain100l.folder=rain100L_train \
    --config.data.train_sets.rain800.folder=rain800 \
    --config.data.test_sets.rain100l.folder=rain100L_test \
    --config.data.test_sets.rain800.folder=rain800 \
    --config.data.test_sets.rain100h.folder=rain100H_test

The folders of Rain100L and Rain100H hold `rain` and `norain` themselves; set
the `split` of a set to train or test where such folders lie between. Argument,
with commas: `unseen` also scores a look of drawn rain that is not trained on;
`drsformer` takes a narrow Transformer; `smoke` shrinks the run to seconds.
"""

import ml_collections


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  words = {word for word in arg.split(',') if word}
  if words - {'unseen', 'drsformer', 'smoke'}:
    raise ValueError(
      f"argument {arg!r} must be of 'unseen', 'drsformer' and 'smoke'"
    )
  transformer, smoke = 'drsformer' in words, 'smoke' in words
  num_steps = 4 if smoke else 800

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.train_sets = ml_collections.ConfigDict()
  config.data.test_sets = ml_collections.ConfigDict()
  for sets, split in (
    (config.data.train_sets, 'train'),
    (config.data.test_sets, 'test'),
  ):
    sets.rain100l = {'name': 'rain100l', 'split': '', 'folder': ''}
    sets.rain800 = {'name': 'rain800', 'split': split, 'folder': ''}
    sets.heavy = {'name': 'photos', 'split': split, 'preset': 'heavy'}
  unseen = {'name': 'rain100h', 'split': '', 'folder': ''}
  config.data.test_sets.rain100h = unseen
  if 'unseen' in words:
    drawn = {'name': 'photos', 'split': 'test', 'preset': 'slanted'}
    config.data.test_sets.slanted = drawn
  config.data.weights = {'rain100l': 1.0, 'rain800': 1.0, 'heavy': 1.0}
  config.data.real_sets = ()
  config.data.redraw = True
  config.data.num_images = 2 if smoke else 0
  config.data.num_test_images = 1 if smoke else 0
  config.data.in_memory = True
  config.data.crop = 32 if smoke else 64
  config.data.antialias = False

  config.model = ml_collections.ConfigDict()
  config.model.name = 'drsformer' if transformer else 'brn'
  config.model.weights = ''
  config.model.modulated = True
  config.model.mask_layout = 'paired'
  if transformer:
    config.model.features = 8
    config.model.blocks = (1, 1, 1, 1)
    config.model.expert_steps = 1
  else:
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
  config.loss.name = 'l1' if transformer else 'ssim'
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
