"""An encoder for the published CoIC network BRN, which came without one.

Reproduces no published number. The network is frozen; the encoder learns from
both losses of CoIC at once, what to tell apart and which z restores best. No
run of this length has been made here; it needs an accelerator.

  python -m coic.convert brn_coic.npz brn_coic.safetensors --model brn
  python -m coic.main --config configs/coic/encoder_for_brn.py \
    --workdir runs/encoder --config.model.weights=brn_coic.safetensors \
    --config.data.train_sets.rain200l.folder=Rain200L \
    --config.data.test_sets.rain200l.folder=Rain200L ...

Argument: what differs, with commas:

  photos (embedded photos with drawn rain in place of the published sets, and
    fewer and smaller crops)
  spa (SPA-Data too, as in `configs/coic/mixed.py`)
  smoke (seconds on a CPU: `photos` and a tiny network that knows nothing)

The score to compare with is the network's at z = 0:
`python -m coic.evaluate --zero_embedding`. Each set (rain200l, rain200h,
rain800, did, ddn, spa) has its folder under `data.train_sets` and
`data.test_sets`.
"""

import ml_collections

_SETS = ('rain200l', 'rain200h', 'rain800', 'did', 'ddn')
_PRESETS = ('light', 'heavy', 'slanted')
_OPTIONS = ('photos', 'spa', 'smoke')


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """Builds the config; see the module for `arg`."""
  options = set(filter(None, arg.split(',')))
  if unknown := sorted(options - set(_OPTIONS)):
    raise ValueError(f'argument {unknown} must be some of {[*_OPTIONS]}')
  smoke = 'smoke' in options
  photos = smoke or 'photos' in options
  spa = 'spa' in options
  if photos and spa:
    raise ValueError("'spa' is one of the sets that 'photos' does without")

  config = ml_collections.ConfigDict()
  config.seed = 0

  config.data = ml_collections.ConfigDict()
  config.data.train_sets = ml_collections.ConfigDict()
  config.data.test_sets = ml_collections.ConfigDict()
  for split, sets in (
    ('train', config.data.train_sets),
    ('test', config.data.test_sets),
  ):
    if photos:
      for preset in _PRESETS:
        sets[preset] = {'name': 'photos', 'split': split, 'preset': preset}
    else:
      for one in (*_SETS, 'spa') if spa else _SETS:
        sets[one] = {'name': one, 'split': split, 'folder': ''}
  config.data.weights = ml_collections.ConfigDict()
  config.data.real_sets = ('spa',) if spa else ()
  config.data.redraw = photos
  config.data.num_images = 1 if smoke else 0
  config.data.num_test_images = 1 if smoke else 0
  config.data.in_memory = False
  config.data.crop = 32 if smoke else 64 if photos else 100
  config.data.antialias = False

  config.model = ml_collections.ConfigDict()
  config.model.name = 'brn'
  # Must be there: a frozen network that knows nothing teaches nothing.
  config.model.weights = '' if smoke else 'brn_coic.safetensors'
  config.model.modulated = True
  config.model.mask_layout = 'published'
  config.model.remat = False
  if smoke:
    config.model.features = 4
    config.model.iterations = 2
    config.model.rain_blocks = config.model.background_blocks = 1

  config.encoder = ml_collections.ConfigDict()
  config.encoder.features = 4 if smoke else 32

  config.contrast = ml_collections.ConfigDict()
  config.contrast.weight = 0.2
  config.contrast.temperature = 1.0
  config.contrast.momentum = 0.99 if photos else 0.999
  config.contrast.num_negatives = 4
  config.contrast.draws = 'independent'
  config.contrast.rain_bank = 0
  config.contrast.rain_search = 'per_device'

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

  num_steps = 2 if smoke else 400 if photos else 60_000
  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 2 if smoke else 6 if photos else 12
  config.train.num_steps = num_steps
  config.train.plain_steps = 0
  config.train.freeze_network = True
  config.train.on_non_finite = 'stop'
  config.train.log_every_steps = 1 if smoke else 20 if photos else 100
  config.train.eval_every_steps = num_steps if photos else 10_000
  config.train.save_every_steps = (
    num_steps if smoke else 100 if photos else 2_000
  )
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
