"""TRNR against the baselines on a few pairs of Rain100L, on 2 CPU cores.

The claim of the paper at a size that needs no accelerator: 10 or 20 pictures to
learn from, a narrow network, equally many patches seen in each step by every
way of sampling. Reproduces no published number.

  python -m trnr.compare --config configs/trnr/rain_small.py \
    --workdir runs/rain_small --samplings rcs,rbs1,rps --seeds 0,1 \
    --num_images 10,20 \
    --config.data.train_input=RAIN --config.data.train_target=CLEAN \
    --config.data.test_input=RAIN --config.data.test_target=CLEAN

trains these 12 networks; about half an hour with 2 cores to itself. Argument,
with commas: `noise` removes Gaussian noise in colour images instead, and only
takes `train_target` and `test_target`; `smoke` shrinks each run to seconds.
"""

import ml_collections


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  words = {word for word in arg.split(',') if word}
  if words - {'noise', 'smoke'}:
    raise ValueError(f"argument {arg!r} must be of 'noise' and 'smoke'")
  noise, smoke = 'noise' in words, 'smoke' in words
  num_tasks, frequencies, num_steps = (2, 2, 4) if smoke else (2, 6, 400)

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.name = 'clean' if noise else 'pairs'
  config.data.train_input = ''
  config.data.train_target = ''
  config.data.test_input = ''
  config.data.test_target = ''
  config.data.input_pattern = r'\D*(\d+)\.\w+'
  config.data.target_pattern = r'\D*(\d+)\.\w+'
  config.data.num_images = 2 if smoke else 10
  config.data.num_test_images = 1 if smoke else 0

  config.patches = ml_collections.ConfigDict()
  config.patches.path = ''
  config.patches.size = 32
  config.patches.stride = 32
  # Small patches have rougher histograms.
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
  config.train.log_every_steps = 2 if smoke else 50
  config.train.eval_every_steps = num_steps
  config.train.save_every_steps = num_steps if smoke else 100
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
  if noise:
    config.model.noise_map = True
    config.sampling.max_sigma = 55.0
    config.eval.protocols = ('trnr_rgb',)
    config.eval.sigmas = (15.0, 25.0, 50.0)
  return config.lock()
