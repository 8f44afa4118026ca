"""TRNR on the published deraining sets, and the baselines it is compared with.

Argument: a set, then what differs, with commas:

  rain100l | rain100h | rain800 | rainlight | rainheavy | rain1400
  rcs (tasks from clusters: TRNR) | rps | rbs1 | rbs2 (the baselines)
  all (learn from every training picture, as the full-data baseline does)
  msresnet | ddn | adn
  smoke (seconds on a CPU, on the folders that are given)

'rain100l,rps,ddn' trains DDN on random patches. The defaults are rain100l, rcs
and msresnet. The published scores were not available; weights were, and with
them Rain100L (100 pictures) scores 38.17 dB and Rain100H (250 pictures) 28.68
dB (RGB, 100 test pictures). No run of this length has been made here; it needs
an accelerator. The stride of the published patches is unknown, 32 is ours.

  python -m trnr.main --config configs/trnr/rain.py:rain100l \
    --workdir runs/rain100l \
    --config.data.train_input=RAIN --config.data.train_target=CLEAN \
    --config.data.test_input=RAIN --config.data.test_target=CLEAN
"""

import ml_collections

# Set: tasks, clusters of a task, steps, training images (scenes x variants),
# inner learning rates. From the published commands and weights.
_SETS = {
  'rain100l': (5, 12, 60_000, 100, 'graded'),
  'rain100h': (5, 12, 60_000, 250, 'graded'),
  'rain800': (3, 32, 120_000, 280, 'graded'),
  'rainlight': (3, 32, 120_000, 600, 'outer'),
  'rainheavy': (3, 32, 120_000, 600, 'outer'),
  'rain1400': (3, 32, 280_000, 1400, 'outer'),
}
# Regular expressions of the file names whose groups pair them.
_PATTERNS = {
  'rainlight': (r'norain-(\d+)x\d+\.png', r'norain-(\d+)\.png'),
  'rainheavy': (r'norain-(\d+)x\d+\.png', r'norain-(\d+)\.png'),
  'rain1400': (r'(\d+)_\d+\.jpg', r'(\d+)\.jpg'),
}
_SAMPLINGS = ('rcs', 'rps', 'rbs1', 'rbs2')
_NETWORKS = ('msresnet', 'ddn', 'adn')


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  name, sampling, network = 'rain100l', 'rcs', 'msresnet'
  every, smoke = False, False
  for word in filter(None, arg.split(',')):
    if word in _SETS:
      name = word
    elif word in _SAMPLINGS:
      sampling = word
    elif word in _NETWORKS:
      network = word
    elif word == 'all':
      every = True
    elif word == 'smoke':
      smoke = True
    else:
      raise ValueError(
        f'argument {word!r} must be one of '
        f'{[*_SETS, *_SAMPLINGS, *_NETWORKS, "all", "smoke"]}'
      )
  num_tasks, frequencies, num_steps, num_images, rates = _SETS[name]
  input_pattern, target_pattern = _PATTERNS.get(name, (r'\D*(\d+)\.\w+',) * 2)
  several = name in _PATTERNS
  if smoke:
    num_tasks, frequencies, num_steps, num_images = 2, 2, 4, 2

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.name = 'pairs'
  config.data.train_input = ''
  config.data.train_target = ''
  config.data.test_input = ''
  config.data.test_target = ''
  config.data.input_pattern = input_pattern
  config.data.target_pattern = target_pattern
  config.data.num_images = 0 if every else num_images
  config.data.num_test_images = 1 if smoke else 0

  config.patches = ml_collections.ConfigDict()
  config.patches.path = ''
  config.patches.size = 32 if smoke else 64
  config.patches.stride = 32
  config.patches.threshold = 0.45
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
  config.sampling.replace = not several
  config.sampling.batch_size = 4 if smoke else 32

  config.model = ml_collections.ConfigDict()
  config.model.name = network
  config.model.features = 48 if network == 'msresnet' else 16
  if smoke:
    config.model.features = 8
  if network == 'msresnet':
    config.model.stages = 1 if smoke else 4
  config.model.remat = False

  config.adaptation = ml_collections.ConfigDict()
  config.adaptation.inner_steps = 2
  config.adaptation.first_order = True
  config.adaptation.learning_rates = rates
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
  if sampling == 'rcs':
    config.optimizer.schedule.kind = 'published'
    config.optimizer.schedule.num_epochs = 200
    # The epochs of the published program leave the tasks of a step out.
    config.optimizer.schedule.patches_per_step = frequencies
  else:
    config.optimizer.schedule.kind = 'cosine'

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
  config.eval.protocols = ('trnr_rgb', 'y_8bit')
  config.eval.sigmas = ()
  return config.lock()
