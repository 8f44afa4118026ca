"""RSD on CIFAR-100 at 32 px: a CNN teaches a small Vision Transformer.

A small relative of the published benchmark for machines without accelerators;
it reproduces no published number. Measured scores are in the README.

  python -m rsdjax.compare --config configs/rsd/cifar100_small.py \
    --config.data.path=cifar100.npz --workdir runs/cifar100_small

`data.path` names an .npz file with x_train, y_train, x_test and y_test; empty,
the set is read from TFDS. Argument: `smoke` shrinks the run to seconds.
"""

import ml_collections


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; `arg` is '' or 'smoke'."""
  if arg not in ('', 'smoke'):
    raise ValueError(f"argument {arg!r} must be empty or 'smoke'")
  smoke = arg == 'smoke'
  num_steps = 10 if smoke else 600

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.name = 'cifar100'
  config.data.path = ''
  config.data.image_size = 32
  config.data.augmentation = 'pad_crop_flip'
  config.data.num_examples = 0

  config.model = ml_collections.ConfigDict()
  config.model.name = 'vit_tiny_patch4_32'
  config.model.patch_size = 8
  config.model.width = 96

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.05
  config.optimizer.clip_norm = 5.0
  config.optimizer.schedule = ml_collections.ConfigDict()
  config.optimizer.schedule.kind = 'cosine'
  config.optimizer.schedule.warmup_steps = num_steps // 10
  config.optimizer.schedule.warmup_learning_rate = 5e-7
  config.optimizer.schedule.final_learning_rate = 1e-5

  config.teacher = ml_collections.ConfigDict()
  config.teacher.checkpoint = ''
  config.teacher.num_steps = 3 * num_steps
  config.teacher.model = ml_collections.ConfigDict()
  config.teacher.model.name = 'resnet20'
  config.teacher.optimizer = ml_collections.ConfigDict()
  config.teacher.optimizer.name = 'sgd'
  config.teacher.optimizer.learning_rate = 0.1
  config.teacher.optimizer.weight_decay = 5e-4
  config.teacher.optimizer.schedule = ml_collections.ConfigDict()
  config.teacher.optimizer.schedule.kind = 'cosine'
  config.teacher.optimizer.schedule.warmup_steps = num_steps // 15
  config.teacher.optimizer.schedule.warmup_learning_rate = 1e-3
  config.teacher.optimizer.schedule.final_learning_rate = 1e-4

  config.distiller = ml_collections.ConfigDict()
  config.distiller.name = 'rsd'
  config.distiller.rsd = ml_collections.ConfigDict()
  config.distiller.rsd.weight = 0.1
  config.distiller.rsd.kappa = 0.01
  config.distiller.rsd.expansion = 2
  config.distiller.rsd.statistics = 'per_device'
  config.distiller.kd = ml_collections.ConfigDict()
  config.distiller.kd.weight = 1.0
  config.distiller.kd.temperature = 1.0

  config.loss = ml_collections.ConfigDict()
  config.loss.name = 'cross_entropy'
  config.loss.label_smoothing = 0.1

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 16 if smoke else 64
  config.train.num_steps = num_steps
  config.train.log_every_steps = num_steps // 10
  config.train.eval_every_steps = num_steps // 3
  config.train.save_every_steps = num_steps // 3
  config.train.parallelism = 'shard_map'
  config.train.batch_norm = 'per_device'
  config.train.dtype = 'float32'
  config.train.accumulation_steps = 1
  config.train.shard_optimizer = False
  config.train.on_non_finite = 'stop'
  config.train.groups_per_device = 1
  config.train.ema_decay = ml_collections.config_dict.placeholder(float)
  config.train.augmentation_repeats = 1
  config.train.data_workers = 0
  config.train.tensorboard = False
  config.train.pictures = True

  config.eval = ml_collections.ConfigDict()
  config.eval.batch_size = 200
  return config.lock()
