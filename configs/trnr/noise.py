"""TRNR on Gaussian noise of known strength, in grey or colour images.

Argument, with commas: `grey` or `color`; `msresnet` (the second version of the
paper: 6 stages) or `dnnet` (the first version); `rps`, `rbs1` or `rbs2` for the
ordinary ways of training; `smoke`. The published denoiser has 64 filters in a
form that cannot run; with 48 it has 1.4 M parameters. Scores were not
available; no run of this length has been made here.

  python -m trnr.main --config configs/trnr/noise.py:grey \
    --workdir runs/noise --config.data.train_target=CLEAN \
    --config.data.test_target=CLEAN
"""

import ml_collections


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  words = [word for word in arg.split(',') if word]
  samplings = ('rcs', 'rps', 'rbs1', 'rbs2')
  valid = ('grey', 'color', 'msresnet', 'dnnet', *samplings, 'smoke')
  for word in words:
    if word not in valid:
      raise ValueError(f'argument {word!r} must be one of {valid}')
  grey, smoke = 'color' not in words, 'smoke' in words
  network = 'dnnet' if 'dnnet' in words else 'msresnet'
  sampling = next((word for word in words if word in samplings), 'rcs')
  tasks = sampling == 'rcs'
  num_tasks, frequencies, num_steps = (2, 2, 4) if smoke else (3, 18, 500_000)

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.name = 'clean'
  config.data.train_target = ''
  config.data.test_target = ''
  config.data.grey = grey
  config.data.num_images = 2 if smoke else 0
  config.data.num_test_images = 1 if smoke else 0

  config.patches = ml_collections.ConfigDict()
  config.patches.path = ''
  config.patches.size = 32 if smoke else 64
  config.patches.stride = 32
  config.patches.threshold = 0.25 if grey else 0.45
  config.patches.max_clusters = 800
  config.patches.single_member = 'merge'
  config.patches.smallest_cluster = 1
  config.patches.seed = 0

  config.sampling = ml_collections.ConfigDict()
  config.sampling.name = sampling
  config.sampling.num_tasks = num_tasks
  config.sampling.frequencies = frequencies
  config.sampling.shots = 1
  config.sampling.query_shots = 1
  config.sampling.replace = False
  config.sampling.max_sigma = 55.0
  config.sampling.batch_size = 4 if smoke else 64

  config.model = ml_collections.ConfigDict()
  config.model.name = network
  config.model.channels = 1 if grey else 3
  config.model.noise_map = True
  config.model.features = 64 if network == 'dnnet' else 48
  config.model.stages = 6
  if smoke:
    config.model.features = 8
    config.model.stages = 1
  config.model.remat = False

  config.adaptation = ml_collections.ConfigDict()
  config.adaptation.inner_steps = 2
  config.adaptation.first_order = True
  config.adaptation.learning_rates = 'graded'
  config.adaptation.inner_learning_rate = 1e-3
  config.adaptation.last_inner_learning_rate = 1e-4
  config.adaptation.learn_rates = False
  config.adaptation.multi_step_epochs = 0
  config.adaptation.attenuation_window = 0
  config.adaptation.over_tasks = 'scan'
  config.adaptation.remat = False

  config.loss = ml_collections.ConfigDict()
  config.loss.ssim_weight = 5.0 if tasks else 0.0

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.0
  config.optimizer.schedule = ml_collections.ConfigDict()
  if tasks:
    config.optimizer.schedule.kind = 'published'
    config.optimizer.schedule.final_learning_rate = 1e-4
    config.optimizer.schedule.num_epochs = max(num_steps // 500, 1)
    config.optimizer.schedule.patches_per_step = num_tasks * frequencies
  else:
    config.optimizer.clip_value = 10.0
    config.optimizer.schedule.kind = 'cosine'
    config.optimizer.schedule.final_learning_rate = 1e-5

  config.train = ml_collections.ConfigDict()
  config.train.num_steps = num_steps
  config.train.log_every_steps = 2 if smoke else 50
  config.train.eval_every_steps = num_steps if smoke else 5000
  config.train.save_every_steps = num_steps if smoke else 500
  config.train.parallelism = 'shard_map'
  config.train.batch_norm = 'per_device'
  config.train.dtype = 'float32'
  config.train.accumulation_steps = 1
  config.train.shard_optimizer = False
  config.train.on_non_finite = 'stop'
  config.train.tensorboard = False
  config.train.pictures = True

  config.eval = ml_collections.ConfigDict()
  config.eval.protocols = ('trnr_rgb',)
  config.eval.sigmas = (15.0, 25.0, 50.0)
  return config.lock()
