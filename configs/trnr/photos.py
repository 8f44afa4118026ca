"""TRNR on embedded photos with rendered rain: five to learn from, two to test.

Reproduces no published number: it is the smallest honest run of the method,
on natural photos that need no download. About 5 minutes of processor time.

  python -m trnr.compare --config configs/trnr/photos.py \
    --workdir runs/photos --samplings rcs,rbs1 --seeds 0

Argument: a preset of the rain (light, heavy, slanted, fine), and after a comma
`smoke` to shrink the run to seconds.
"""

import ml_collections


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  words = [word for word in arg.split(',') if word]
  valid = ('light', 'heavy', 'slanted', 'fine', 'smoke')
  for word in words:
    if word not in valid:
      raise ValueError(f'argument {word!r} must be one of {valid}')
  smoke = 'smoke' in words
  preset = next((word for word in words if word != 'smoke'), 'heavy')
  num_tasks, frequencies, num_steps = (2, 2, 4) if smoke else (2, 6, 250)

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.name = 'photos'
  config.data.preset = preset
  config.data.rain_seed = 0
  config.data.num_images = 0

  config.patches = ml_collections.ConfigDict()
  config.patches.path = ''
  config.patches.size = 32
  config.patches.stride = 32
  config.patches.threshold = 0.9
  config.patches.max_clusters = 350
  config.patches.single_member = 'drop'
  config.patches.smallest_cluster = 1
  config.patches.seed = 0

  config.sampling = ml_collections.ConfigDict()
  config.sampling.name = 'rcs'
  config.sampling.num_tasks = num_tasks
  config.sampling.frequencies = frequencies
  config.sampling.shots = 1
  config.sampling.query_shots = 1
  config.sampling.replace = True
  # As many patches as the tasks of a step have.
  config.sampling.batch_size = 2 * num_tasks * frequencies

  config.model = ml_collections.ConfigDict()
  config.model.name = 'msresnet'
  config.model.features = 8 if smoke else 16
  config.model.stages = 1 if smoke else 2
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
  config.loss.ssim_weight = 5.0

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 4e-5
  config.optimizer.clip_value = 10.0
  config.optimizer.schedule = ml_collections.ConfigDict()
  config.optimizer.schedule.final_learning_rate = 1e-4
  config.optimizer.schedule.kind = 'cosine'

  config.train = ml_collections.ConfigDict()
  config.train.num_steps = num_steps
  config.train.log_every_steps = 2 if smoke else 25
  config.train.eval_every_steps = num_steps if smoke else 125
  config.train.save_every_steps = num_steps
  config.train.parallelism = 'shard_map'
  config.train.batch_norm = 'per_device'
  config.train.dtype = 'float32'
  config.train.accumulation_steps = 1
  config.train.shard_optimizer = False
  config.train.on_non_finite = 'stop'
  config.train.tensorboard = False
  config.train.pictures = True

  config.eval = ml_collections.ConfigDict()
  config.eval.protocols = ('trnr_rgb', 'y_8bit')
  config.eval.sigmas = ()
  return config.lock()
