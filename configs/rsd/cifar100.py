"""RSD on CIFAR-100 at 224 px: the twelve published pairs.

Follows the CIFAR-100 table of Zhang et al., "Cross-Architecture Distillation
Made Simple with Redundancy Suppression", ICCV 2025: 300 epochs of 195 batches
of 256 (2 devices of 128, whose statistics stay apart). On one device,
`--config.train.groups_per_device=2` gives the same objective.

The argument is `TEACHER->STUDENT`, by timm names; `,smoke` behind it shrinks
the run to two small steps:

  python -m rsdjax.main --workdir runs/swin_resnet18 \
    --config 'configs/rsd/cifar100.py:swin_tiny_patch4_window7_224->resnet18' \
    --config.teacher.checkpoint=teacher.safetensors

The teacher is a network fine-tuned on CIFAR-100; how the published ones were is
not documented. `python -m rsdjax.convert` makes the file from timm weights.

Published top-1 of RSD, %, quoted second-hand and unverified: Swin-T ->
ResNet-18 83.92, ViT-S -> MobileNetV2 81.68, ConvNeXt-T -> DeiT-T 82.46,
ConvNeXt-T -> ResMLP-S12 84.21. None was run here: a run takes about 1.5e17
multiply-adds, days on the CPU that this library was made on.
"""

import ml_collections

PAIRS = (
  'swin_tiny_patch4_window7_224->resnet18',
  'vit_small_patch16_224->resnet18',
  'mixer_b16_224->resnet18',
  'swin_tiny_patch4_window7_224->mobilenetv2_100',
  'vit_small_patch16_224->mobilenetv2_100',
  'mixer_b16_224->mobilenetv2_100',
  'convnext_tiny->deit_tiny_patch16_224',
  'mixer_b16_224->deit_tiny_patch16_224',
  'convnext_tiny->swin_pico_patch4_window7_224',
  'mixer_b16_224->swin_pico_patch4_window7_224',
  'convnext_tiny->resmlp_12_224',
  'swin_tiny_patch4_window7_224->resmlp_12_224',
)
# Share of the picture that evaluation crops, and its filter, by student.
EVALUATION = {
  'resnet18': (0.875, 'bilinear'),
  'mobilenetv2_100': (0.875, 'bicubic'),
  'deit_tiny_patch16_224': (0.9, 'bicubic'),
  'swin_pico_patch4_window7_224': (0.9, 'bicubic'),
  'resmlp_12_224': (0.875, 'bicubic'),
}
STEPS_PER_EPOCH = 50_000 // 256


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config of a pair; the first of `PAIRS` where none is named."""
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
  recipe = _cnn if student in ('resnet18', 'mobilenetv2_100') else _vit_or_mlp
  epoch = 1 if smoke else STEPS_PER_EPOCH
  num_steps = 2 if smoke else 300 * epoch

  config = ml_collections.ConfigDict()
  config.seed = 42

  config.data = ml_collections.ConfigDict()
  config.data.name = 'cifar100'
  config.data.path = ''
  config.data.image_size = 224
  config.data.augmentation = 'random_resized_crop_flip'
  config.data.train_interpolation = 'random'
  config.data.randaugment = ''
  config.data.mixup_alpha = 0.0
  config.data.cutmix_alpha = 0.0
  config.data.mix_label_smoothing = 0.1
  config.data.random_erasing = 0.0
  config.data.eval_crop, config.data.eval_interpolation = EVALUATION[student]

  config.model = ml_collections.ConfigDict()
  config.model.name = student
  # The network's own default, which the published recipe leaves in place.
  config.model.drop_path_rate = 0.1 if student.startswith('swin') else 0.0
  config.model.remat = False

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.schedule = ml_collections.ConfigDict()
  config.optimizer.schedule.kind = 'cosine'
  config.optimizer.schedule.hold_steps = epoch

  config.teacher = ml_collections.ConfigDict()
  config.teacher.checkpoint = ''
  config.teacher.num_steps = 0
  config.teacher.model = ml_collections.ConfigDict()
  config.teacher.model.name = teacher

  config.distiller = ml_collections.ConfigDict()
  config.distiller.name = 'rsd'
  config.distiller.rsd = ml_collections.ConfigDict()
  config.distiller.rsd.weight = 0.1
  config.distiller.rsd.kappa = 0.01
  config.distiller.rsd.expansion = 2
  config.distiller.rsd.statistics = 'per_device'
  config.distiller.rsd.decoupler = 'aad'
  config.distiller.rsd_logits = ml_collections.ConfigDict()
  config.distiller.rsd_logits.weight = 0.1
  config.distiller.rsd_logits.kappa = 0.01
  config.distiller.kd = ml_collections.ConfigDict()
  config.distiller.kd.weight = 1.0
  config.distiller.kd.temperature = 1.0
  config.distiller.dkd = ml_collections.ConfigDict()
  config.distiller.dkd.alpha = 1.0
  config.distiller.dkd.beta = 2.0
  config.distiller.ofa = ml_collections.ConfigDict()
  config.distiller.ofa.exponent = 1.0
  config.distiller.ofa.temperature = 1.0
  config.distiller.crd = ml_collections.ConfigDict()
  config.distiller.crd.num_negatives = 16384

  config.loss = ml_collections.ConfigDict()
  config.loss.name = 'cross_entropy'
  config.loss.label_smoothing = 0.1

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 8 if smoke else 256
  config.train.num_steps = num_steps
  config.train.log_every_steps = 1 if smoke else 50
  config.train.eval_every_steps = epoch
  config.train.save_every_steps = epoch
  config.train.parallelism = 'shard_map'
  config.train.batch_norm = 'per_device'
  config.train.dtype = 'float32'
  config.train.accumulation_steps = 1
  config.train.shard_optimizer = False
  config.train.on_non_finite = 'stop'
  config.train.groups_per_device = 1
  config.train.ema_decay = ml_collections.config_dict.placeholder(float)
  config.train.augmentation_repeats = 1
  config.train.data_workers = 0 if smoke else 8
  config.train.tensorboard = False
  config.train.pictures = True

  config.eval = ml_collections.ConfigDict()
  config.eval.batch_size = 8 if smoke else 256

  recipe(config, epoch)
  config.teacher.optimizer = config.optimizer.copy_and_resolve_references()
  return config.lock()


def _cnn(config: ml_collections.ConfigDict, epoch: int) -> None:
  """What the recipe says of ResNet-18 and MobileNetV2 alone."""
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.05
  config.optimizer.weight_decay = 2e-3
  config.optimizer.momentum = 0.9
  config.optimizer.schedule.warmup_steps = 3 * epoch
  config.optimizer.schedule.warmup_learning_rate = 1e-4
  config.optimizer.schedule.final_learning_rate = 1e-3


def _vit_or_mlp(config: ml_collections.ConfigDict, epoch: int) -> None:
  """What the recipe says of DeiT-T, Swin-P and ResMLP alone."""
  config.data.randaugment = 'rand-m9-mstd0.5-inc1'
  config.data.mixup_alpha = 0.8
  config.data.cutmix_alpha = 1.0
  config.data.random_erasing = 0.25
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 5e-4
  config.optimizer.weight_decay = 0.05
  config.optimizer.clip_norm = 5.0
  config.optimizer.schedule.warmup_steps = 20 * epoch
  config.optimizer.schedule.warmup_learning_rate = 5e-7
  config.optimizer.schedule.final_learning_rate = 1e-5
