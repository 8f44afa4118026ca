"""The networks by name."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from common import network_options
from rsdjax.models.convnext import ConvNeXt
from rsdjax.models.mixer import MlpMixer
from rsdjax.models.mobilenet import MobileNetV2
from rsdjax.models.network import Network
from rsdjax.models.resmlp import ResMlp
from rsdjax.models.resnet import ResNet
from rsdjax.models.swin import SwinTransformer
from rsdjax.models.vit import VisionTransformer


@dataclasses.dataclass(frozen=True)
class Entry:
  """A network of the registry.

  Attributes:
    network: its class.
    options: the fields that make it this network.
    image_size: side of the images it was made for, in pixels.
    num_classes: number of classes that it was made for.
    parameters: number of trainable parameters at `num_classes` classes.
    flops: multiply-adds of the convolutions and matrix products for one image
      of `image_size`, which is what the field's tables call FLOPs.
  """

  network: type[Network]
  options: Mapping[str, Any]
  image_size: int
  num_classes: int
  parameters: int
  flops: int


def _imagenet(
  network: type[Network], *, parameters: int, flops: int, **options: Any
) -> Entry:
  return Entry(network, options, 224, 1000, parameters, flops)


def _cifar(
  network: type[Network], *, parameters: int, flops: int, **options: Any
) -> Entry:
  return Entry(network, options, 32, 100, parameters, flops)


_NETWORKS = {
  'resnet18': _imagenet(
    ResNet, parameters=11_689_512, flops=1_814_073_344, depths=(2, 2, 2, 2)
  ),
  'resnet34': _imagenet(
    ResNet, parameters=21_797_672, flops=3_663_761_408, depths=(3, 4, 6, 3)
  ),
  'resnet50': _imagenet(
    ResNet,
    parameters=25_557_032,
    flops=4_089_184_256,
    depths=(3, 4, 6, 3),
    bottleneck=True,
  ),
  'resnet101': _imagenet(
    ResNet,
    parameters=44_549_160,
    flops=7_801_405_440,
    depths=(3, 4, 23, 3),
    bottleneck=True,
  ),
  'mobilenetv2_100': _imagenet(
    MobileNetV2, parameters=3_504_872, flops=300_774_272
  ),
  'convnext_tiny': _imagenet(
    ConvNeXt,
    parameters=28_589_128,
    flops=4_455_531_264,
    depths=(3, 3, 9, 3),
    width=96,
  ),
  'convnext_base': _imagenet(
    ConvNeXt,
    parameters=88_591_464,
    flops=15_354_729_472,
    depths=(3, 3, 27, 3),
    width=128,
  ),
  'deit_tiny_patch16_224': _imagenet(
    VisionTransformer,
    parameters=5_717_416,
    flops=1_253_683_200,
    width=192,
    num_heads=3,
  ),
  'vit_small_patch16_224': _imagenet(
    VisionTransformer,
    parameters=22_050_664,
    flops=4_598_882_304,
    width=384,
    num_heads=6,
  ),
  'vit_base_patch16_224': _imagenet(
    VisionTransformer,
    parameters=86_567_656,
    flops=17_563_828_224,
    width=768,
    num_heads=12,
  ),
  'swin_pico_patch4_window7_224': _imagenet(
    SwinTransformer,
    parameters=5_506_996,
    flops=799_913_472,
    width=48,
    depths=(2, 2, 2, 2),
    num_heads=(2, 4, 8, 16),
  ),
  'swin_nano_patch4_window7_224': _imagenet(
    SwinTransformer,
    parameters=9_599_940,
    flops=1_394_100_224,
    width=64,
    depths=(2, 2, 2, 2),
    num_heads=(2, 4, 8, 16),
  ),
  'swin_tiny_patch4_window7_224': _imagenet(
    SwinTransformer,
    parameters=28_288_354,
    flops=4_490_566_656,
    width=96,
    depths=(2, 2, 6, 2),
    num_heads=(3, 6, 12, 24),
  ),
  'swin_small_patch4_window7_224': _imagenet(
    SwinTransformer,
    parameters=49_606_258,
    flops=8_740_875_264,
    width=96,
    depths=(2, 2, 18, 2),
    num_heads=(3, 6, 12, 24),
  ),
  'swin_base_patch4_window7_224': _imagenet(
    SwinTransformer,
    parameters=87_768_224,
    flops=15_430_946_816,
    width=128,
    depths=(2, 2, 18, 2),
    num_heads=(4, 8, 16, 32),
  ),
  'mixer_b16_224': _imagenet(
    MlpMixer, parameters=59_880_472, flops=12_601_767_936, width=768
  ),
  'resmlp_12_224': _imagenet(
    ResMlp, parameters=15_350_872, flops=3_009_739_776, width=384
  ),
  'resnet20': _cifar(
    ResNet,
    parameters=278_324,
    flops=40_818_944,
    depths=(3, 3, 3),
    width=16,
    small_stem=True,
  ),
  'resnet56': _cifar(
    ResNet,
    parameters=861_620,
    flops=125_753_600,
    depths=(9, 9, 9),
    width=16,
    small_stem=True,
  ),
  'vit_tiny_patch4_32': _cifar(
    VisionTransformer,
    parameters=2_710_948,
    flops=182_866_944,
    patch_size=4,
    width=192,
    depth=6,
    num_heads=3,
  ),
  'mixer_tiny_patch4_32': _cifar(
    MlpMixer,
    parameters=1_883_620,
    flops=128_011_008,
    patch_size=4,
    width=192,
    depth=6,
  ),
  'resmlp_tiny_patch4_32': _cifar(
    ResMlp,
    parameters=1_836_196,
    flops=118_573_824,
    patch_size=4,
    width=192,
    depth=6,
  ),
}


def names() -> dict[str, Entry]:
  """The networks that `create` knows, with their sizes and costs."""
  return dict(_NETWORKS)


def create(
  name: str,
  *,
  num_classes: int = 1000,
  image_size: int | None = None,
  dtype: jax.typing.DTypeLike | None = None,
  axis_name: str | None = None,
  **overrides: Any,
) -> Network:
  """Builds a network.

  Args:
    name: one of `names()`.
    num_classes: number of logits.
    image_size: side of the images that it will see; None means its own. Checked
      here, and not kept: the network follows the images that it gets.
    dtype: of the computation up to the embedding; None means float32.
    axis_name: device axis to take BatchNorm statistics over; None means this
      device's batch.
    **overrides: other fields of the network's class, such as `drop_path_rate`,
      `remat` or `patch_size`.

  Returns:
    A `Network`.

  Raises:
    ValueError: the name or an override is unknown, or the images do not fit.
  """
  if name not in _NETWORKS:
    close = difflib.get_close_matches(name, _NETWORKS, n=1)
    hint = f' Did you mean {close[0]!r}?' if close else ''
    raise ValueError(
      f'unknown network {name!r}.{hint} Valid: {", ".join(_NETWORKS)}'
    )
  entry = _NETWORKS[name]
  options = _option_names(entry.network)
  unknown = sorted(set(overrides) - set(options))
  if unknown:
    raise ValueError(
      f'{name} has no option {", ".join(unknown)}. Valid: {", ".join(options)}'
    )
  network = entry.network(
    num_classes=num_classes,
    dtype=dtype,
    axis_name=axis_name,
    **{**entry.options, **network_options.with_tuples(overrides)},
  )
  size = entry.image_size if image_size is None else image_size
  network.check_image_size(size, size)
  return network


def feature_shapes(
  model: Network, image_size: int
) -> dict[str, tuple[int, ...]]:
  """Shapes of what a network gives for one image, without running it.

  Args:
    model: a network.
    image_size: side of the image in pixels.

  Returns:
    `stage1` to `stage4`, the entries of `features` in order, as (height, width,
    channels) or (tokens, dim), then `embedding` and `logits`.

  Raises:
    ValueError: the image does not fit the network.
  """

  def run() -> dict[str, Any]:
    images = jnp.zeros((1, image_size, image_size, 3))
    return model.init_with_output(jax.random.key(0), images, features=True)[0]

  outputs = jax.eval_shape(run)
  shapes = {f'stage{i}': x for i, x in enumerate(outputs['features'], 1)}
  shapes |= {key: outputs[key] for key in ('embedding', 'logits')}
  return {key: x.shape[1:] for key, x in shapes.items()}


def _option_names(network: type[Network]) -> list[str]:
  """The fields of a class that `create` does not set itself."""
  taken = {'num_classes', 'dtype', 'axis_name', 'parent', 'name'}
  return sorted({f.name for f in dataclasses.fields(network)} - taken)
