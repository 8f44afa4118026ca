"""RSD on CIFAR-100 at 32 px: a CNN and small token networks, either way.

A small relative of the published benchmark for machines without accelerators;
it reproduces no published number. Measured scores: docs/results.md.

  python -m rsdjax.compare --config configs/rsd/cifar100_small.py \
    --config.data.path=cifar100.npz --workdir runs/cifar100_small

`data.path` names an .npz file with x_train, y_train, x_test and y_test; empty,
the set is read from TFDS. Argument: one of `PAIRS`, the first by default;
`smoke`, or `,smoke` behind a pair, shrinks the run to seconds.
"""

import ml_collections

PAIRS = (
  'resnet20->vit_tiny_patch4_32',
  'resnet20->mixer_tiny_patch4_32',
  'resnet20->resmlp_tiny_patch4_32',
  'vit_tiny_patch4_32->resnet20',
  'mixer_tiny_patch4_32->resnet20',
)


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config of a pair; see the module for `arg`."""
  pair, _, variant = (arg or PAIRS[0]).partition(',')
  if pair == 'smoke':
    pair, variant = PAIRS[0], 'smoke'
  if pair not in PAIRS or variant not in ('', 'smoke'):
    raise ValueError(
      f"argument {arg!r} must be one of {', '.join(PAIRS)}, with ',smoke' "
      'behind it or not'
    )
  smoke = variant == 'smoke'
  teacher, student = pair.split('->')
  num_steps = 10 if smoke else 600

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.name = 'cifar100'
  config.data.path = ''
  config.data.image_size = 32
  config.data.augmentation = 'pad_crop_flip'
  config.data.num_examples = 0

  config.model = _network(student)
  if student != 'resnet20':
    config.model.width = 96
  config.optimizer = _optimizer(student, num_steps)

  config.teacher = ml_collections.ConfigDict()
  config.teacher.checkpoint = ''
  config.teacher.num_steps = 3 * num_steps
  config.teacher.model = _network(teacher)
  config.teacher.optimizer = _optimizer(teacher, 3 * num_steps)

  config.distiller = ml_collections.ConfigDict()
  config.distiller.name = 'rsd'
  config.distiller.rsd = ml_collections.ConfigDict()
  config.distiller.rsd.weight = 0.1
  config.distiller.rsd.kappa = 0.01
  config.distiller.rsd.expansion = 2
  config.distiller.rsd.statistics = 'per_device'
  config.distiller.rsd.decoupler = 'aad'
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


def _network(name: str) -> ml_collections.ConfigDict:
  """A `model` block; token networks have patches of 8 pixels, to be quick."""
  model = ml_collections.ConfigDict()
  model.name = name
  if name != 'resnet20':
    model.patch_size = 8
  return model


def _optimizer(name: str, num_steps: int) -> ml_collections.ConfigDict:
  """The `optimizer` block of a network."""
  optimizer = ml_collections.ConfigDict()
  optimizer.schedule = ml_collections.ConfigDict()
  optimizer.schedule.kind = 'cosine'
  if name == 'resnet20':
    optimizer.name = 'sgd'
    optimizer.learning_rate = 0.1
    optimizer.weight_decay = 5e-4
    optimizer.schedule.warmup_steps = num_steps // 45
    optimizer.schedule.warmup_learning_rate = 1e-3
    optimizer.schedule.final_learning_rate = 1e-4
  else:
    optimizer.name = 'adamw'
    optimizer.learning_rate = 1e-3
    optimizer.weight_decay = 0.05
    optimizer.clip_norm = 5.0
    optimizer.schedule.warmup_steps = num_steps // 10
    optimizer.schedule.warmup_learning_rate = 5e-7
    optimizer.schedule.final_learning_rate = 1e-5
  return optimizer
