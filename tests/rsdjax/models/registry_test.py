"""Names, sizes and shapes of the networks, none of which is run."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rsdjax import models

# Of each network with published numbers: parameters at 100 and 1000 classes,
# and the shapes of the four stages and the embedding at 224 pixels.
PUBLISHED = {
  'resnet18': (
    11_227_812,
    11_689_512,
    [(56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512), (512,)],
  ),
  'resnet50': (
    23_712_932,
    25_557_032,
    [(56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048), (2048,)],
  ),
  'mobilenetv2_100': (
    2_351_972,
    3_504_872,
    [(56, 56, 24), (28, 28, 32), (14, 14, 96), (7, 7, 1280), (1280,)],
  ),
  'convnext_tiny': (
    27_897_028,
    28_589_128,
    [(56, 56, 96), (28, 28, 192), (14, 14, 384), (7, 7, 768), (768,)],
  ),
  'deit_tiny_patch16_224': (
    5_543_716,
    5_717_416,
    [(197, 192)] * 4 + [(192,)],
  ),
  'vit_small_patch16_224': (
    21_704_164,
    22_050_664,
    [(197, 384)] * 4 + [(384,)],
  ),
  'swin_pico_patch4_window7_224': (
    5_160_496,
    5_506_996,
    [(3136, 48), (784, 96), (196, 192), (49, 384), (384,)],
  ),
  'swin_nano_patch4_window7_224': (
    9_138_240,
    9_599_940,
    [(3136, 64), (784, 128), (196, 256), (49, 512), (512,)],
  ),
  'swin_tiny_patch4_window7_224': (
    27_596_254,
    28_288_354,
    [(3136, 96), (784, 192), (196, 384), (49, 768), (768,)],
  ),
  'mixer_b16_224': (59_188_372, 59_880_472, [(196, 768)] * 4 + [(768,)]),
  'resmlp_12_224': (15_004_372, 15_350_872, [(196, 384)] * 4 + [(384,)]),
}
# Rounded as timm's documentation has them, in millions at 1000 classes.
PUBLISHED_MILLIONS = {
  'resnet34': 21.80,
  'resnet101': 44.55,
  'convnext_base': 88.59,
  'vit_base_patch16_224': 86.57,
  'swin_small_patch4_window7_224': 49.61,
  'swin_base_patch4_window7_224': 87.77,
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes_and_shapes(name):
  with_100, with_1000, shapes = PUBLISHED[name]
  model = models.create(name, num_classes=100)
  assert models.count_parameters(model, 224) == with_100
  assert models.names()[name].parameters == with_1000
  features = models.feature_shapes(model, 224)
  assert list(features) == [
    'stage1',
    'stage2',
    'stage3',
    'stage4',
    'embedding',
    'logits',
  ]
  assert list(features.values()) == [*shapes, (100,)]


@pytest.mark.parametrize('name', PUBLISHED_MILLIONS)
def test_published_millions(name):
  millions = round(models.names()[name].parameters / 1e6, 2)
  assert millions == PUBLISHED_MILLIONS[name]


@pytest.mark.parametrize('name', models.names())
def test_recorded_parameters_and_flops(name):
  entry = models.names()[name]
  model = models.create(name, num_classes=entry.num_classes)
  assert models.count_parameters(model, entry.image_size) == entry.parameters
  assert models.count_flops(model, entry.image_size) == entry.flops


def test_flops_of_a_network_counted_by_hand():
  model = models.create(
    'mixer_tiny_patch4_32', num_classes=10, image_size=8, width=6, depth=1
  )
  tokens, width = 4, 6
  patches = tokens * (4 * 4 * 3) * width
  mlp_tokens = 2 * width * tokens * (width // 2)
  mlp_channels = 2 * tokens * width * (4 * width)
  classifier = width * 10
  assert models.count_flops(model, 8) == (
    patches + mlp_tokens + mlp_channels + classifier
  )


@pytest.mark.parametrize('name', models.names())
def test_shapes_at_another_size(name):
  """32-pixel networks at 8 pixels, the others at 32."""
  entry = models.names()[name]
  small = entry.image_size == 32
  overrides = {'num_classes': 10}
  if 'patch' in name and small:
    overrides['patch_size'] = 2
  if 'swin' in name:
    overrides['window_size'] = 4
  size = 8 if small else 32
  model = models.create(name, image_size=size, **overrides)
  shapes = models.feature_shapes(model, size)
  assert len(shapes) == 6
  assert shapes['logits'] == (10,)
  assert shapes['embedding'][-1] == shapes['stage4'][-1]


def test_prefix_tokens_need_no_model():
  with_prefix = {
    name
    for name, entry in models.names().items()
    if entry.network.prefix_tokens == 1
  }
  assert with_prefix == {n for n in models.names() if n[:3] in ('vit', 'dei')}


def test_names_gives_a_copy():
  models.names().clear()
  assert 'resnet18' in models.names()


def test_overrides_and_options_reach_the_network():
  model = models.create(
    'deit_tiny_patch16_224',
    num_classes=7,
    dtype=jnp.bfloat16,
    axis_name='batch',
    drop_path_rate=0.2,
    remat=True,
    depth=6,
  )
  given = dataclasses.asdict(model)
  assert given['num_classes'] == 7
  assert given['dtype'] == jnp.bfloat16
  assert given['axis_name'] == 'batch'
  assert given['drop_path_rate'] == 0.2
  assert given['remat']
  assert given['depth'] == 6
  assert given['width'] == 192


@pytest.mark.parametrize('name', models.names())
def test_only_swin_has_drop_path_unasked(name):
  rate = 0.1 if name.startswith('swin') else 0.0
  assert models.create(name).drop_path_rate == rate


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('resnet19', {}, "unknown network 'resnet19'. Did you mean 'resnet18'"),
    ('???', {}, r"unknown network '\?\?\?'. Valid: resnet18, "),
    ('resnet18', {'depth': 3}, 'no option depth. Valid: bottleneck, depths'),
    ('vit_tiny_patch4_32', {'image_size': 30}, '30x30 .* multiple of 4'),
    ('convnext_tiny', {'image_size': 48}, '48x48 .* multiple of 32'),
    (
      'swin_tiny_patch4_window7_224',
      {'image_size': 256},
      'stage 1 a grid of 64x64, .* multiple of the window of 7',
    ),
  ],
)
def test_errors(name, options, message):
  with pytest.raises(ValueError, match=message):
    models.create(name, **options)


@pytest.mark.parametrize(
  ('shape', 'dtype', 'message'),
  [
    ((2, 32, 32, 1), jnp.float32, 'must have 3 channels'),
    ((32, 32, 3), jnp.float32, 'must have 4 axes'),
    ((2, 32, 32, 3), jnp.uint8, 'must be of a floating dtype'),
    ((2, 32, 30, 3), jnp.float32, '32x30 must be a positive multiple of 4'),
    ((2, 0, 32, 3), jnp.float32, '0x32 must be a positive multiple of 4'),
  ],
)
def test_images_that_do_not_fit(shape, dtype, message):
  model = models.create('vit_tiny_patch4_32')
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype)
    )


def test_options_of_a_file_make_the_same_network():
  model = models.create('resnet18', num_classes=2, depths=[1, 1, 1, 1])
  assert model == models.create('resnet18', num_classes=2, depths=(1, 1, 1, 1))
  assert isinstance(hash(model), int)
