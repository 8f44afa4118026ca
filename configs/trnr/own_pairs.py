"""TRNR on a few pairs of your own: two folders, one config.

Degraded images in one folder, clean ones of the same names in another; a
dozen pairs are enough to begin with. Patch analysis, training and evaluation
in one go. With the defaults, many hours on a CPU; with `narrow` (a network of
55,000 parameters, patches of 32 pixels, 400 steps) some minutes.

  python -m trnr.main --config configs/trnr/own_pairs.py --workdir runs/own \
    --config.data.train_input=DEGRADED --config.data.train_target=CLEAN

The last two pairs are set aside to score on, and not learned from. For test
pictures in folders of their own, set `data.num_held_out` to 0 and
`data.test_input` and `data.test_target` to these. Arguments, with commas:
`narrow`; `rps`, `rbs1`, `rbs2` for the ordinary ways of training; `smoke` for a
run of seconds.
"""

import ml_collections


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  words = [word for word in arg.split(',') if word]
  samplings = ('rcs', 'rps', 'rbs1', 'rbs2')
  valid = (*samplings, 'narrow', 'smoke')
  for word in words:
    if word not in valid:
      raise ValueError(f'argument {word!r} must be one of {valid}')
  smoke, narrow = 'smoke' in words, 'narrow' in words or 'smoke' in words
  sampling = next((word for word in words if word in samplings), 'rcs')
  num_tasks, frequencies, num_steps = (4, 6, 5000)
  if narrow:
    num_tasks, frequencies, num_steps = (3, 8, 400)
  if smoke:
    num_tasks, frequencies, num_steps = (2, 2, 4)

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.name = 'pairs'
  config.data.train_input = ''
  config.data.train_target = ''
  config.data.test_input = ''
  config.data.test_target = ''
  config.data.input_pattern = r'(.+)\.\w+'
  config.data.target_pattern = r'(.+)\.\w+'
  config.data.num_images = 2 if smoke else 0
  config.data.num_test_images = 0
  config.data.num_held_out = 1 if smoke else 2

  config.patches = ml_collections.ConfigDict()
  config.patches.path = ''
  config.patches.size = 32 if narrow else 64
  config.patches.stride = 32
  # Small patches have rougher histograms.
  config.patches.threshold = 0.9 if narrow else 0.45
  config.patches.max_clusters = 350
  config.patches.single_member = 'drop'
  config.patches.smallest_cluster = 1
  config.patches.seed = 0

  config.sampling = ml_collections.ConfigDict()
  config.sampling.name = sampling
  config.sampling.num_tasks = num_tasks
  config.sampling.frequencies = frequencies
  config.sampling.shots = 1
  config.sampling.query_shots = 1
  config.sampling.replace = True
  # As many patches as the tasks of a step have.
  config.sampling.batch_size = 2 * num_tasks * frequencies

  config.model = ml_collections.ConfigDict()
  config.model.name = 'msresnet'
  config.model.features = 16 if narrow else 48
  config.model.stages = 2 if narrow else 4
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
  config.train.log_every_steps = 2 if smoke else 50
  config.train.eval_every_steps = num_steps // 2 if narrow else 1000
  config.train.save_every_steps = num_steps if smoke else 200
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
