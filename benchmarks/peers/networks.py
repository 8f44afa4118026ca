"""The networks of the other side, by our names."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from benchmarks.peers.convnext import ConvNeXt
from benchmarks.peers.resnet import ResNet
from benchmarks.peers.swin import SwinTransformer
from benchmarks.peers.vit import VisionTransformer

_OF_ANY_SIZE: dict[str, Callable[..., nn.Module]] = {
  'convnext_tiny': ConvNeXt,
  'resnet18': ResNet,
  'resnet20': functools.partial(
    ResNet, depths=(3, 3, 3), width=16, small_stem=True
  ),
}
_OF_ONE_SIZE: dict[str, Callable[..., nn.Module]] = {
  'deit_tiny_patch16_224': functools.partial(
    VisionTransformer, patch_size=16, width=192, depth=12, num_heads=3
  ),
  'swin_tiny_patch4_window7_224': SwinTransformer,
  'vit_tiny_patch4_32': functools.partial(
    VisionTransformer, patch_size=4, width=192, depth=6, num_heads=3
  ),
}


def create(
  name: str,
  *,
  num_classes: int,
  image_size: int,
  drop_path_rate: float = 0.0,
  remat: bool = False,
  **options: Any,
) -> nn.Module:
  """Builds a network; as `rsdjax.models.create`.

  Args:
    name: one of a few of `rsdjax.models.names()`.
    num_classes: number of logits.
    image_size: side of the images.
    drop_path_rate: must be 0.
    remat: must be False.
    **options: other fields of the network.

  Returns:
    A module of images [b, 3, h, w] that gives logits and embedding.
  """
  if drop_path_rate or remat:
    raise ValueError('the peers have neither drop path nor remat')
  if name in _OF_ANY_SIZE:
    return _OF_ANY_SIZE[name](num_classes=num_classes, **options)
  return _OF_ONE_SIZE[name](
    num_classes=num_classes, image_size=image_size, **options
  )


def embedding_width(network: nn.Module) -> int:
  """Width of what enters the classifier, the last linear layer."""
  *_, classifier = (m for m in network.modules() if isinstance(m, nn.Linear))
  return classifier.in_features


def random_weights(
  network: nn.Module, *, bias: float = 0.0
) -> dict[str, np.ndarray]:
  """Random weights, which cost neither side an initialiser to compile.

  Scales that would start at 0, or near, are near 1: they hide no mistake.

  Args:
    network: gives names and shapes.
    bias: what the biases, and all that is no kernel and no scale, are near.

  Returns:
    Arrays by name.
  """
  rng = np.random.default_rng(0)
  tensors = {}
  for name, x in network.state_dict().items():
    leaf = name.rpartition('.')[2]
    if leaf == 'num_batches_tracked':
      continue
    noise = rng.standard_normal(x.shape, np.float32)
    if leaf == 'weight' and x.ndim > 1:
      fan_in = x.numel() // len(x)
      tensors[name] = noise / np.sqrt(fan_in, dtype=np.float32)
    else:
      start = 1.0 if leaf in ('weight', 'gamma', 'running_var') else bias
      tensors[name] = np.float32(start) + np.float32(0.1) * noise
  return tensors
