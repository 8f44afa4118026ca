"""Classification data sets by name: where they lie, and what is done to them.

The keyword arguments of `classification` are the keys of a config's `data`
block.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from common.data import mixing, sources, transforms
from common.data.augmentations import RandAugment
from common.data.file_sources import folder_source, npz_source, tfds_source
from common.data.sources import Batch, Example, Source, Split

Moments = tuple[float, float, float]
BatchTransform = Callable[[Batch, np.random.Generator], Batch]

_IMAGENET_MOMENTS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Mean and standard deviation of the training images; files of unknown content
# get those of ImageNet.
MOMENTS: dict[str, tuple[Moments, Moments]] = {
  'digits': ((0.305,) * 3, (0.376,) * 3),
  'npz': _IMAGENET_MOMENTS,
  'folder': _IMAGENET_MOMENTS,
  'cifar10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  'cifar100': ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
  'imagenet2012': _IMAGENET_MOMENTS,
}

AUGMENTATIONS = (
  'none',
  'pad_crop',
  'pad_crop_flip',
  'random_resized_crop',
  'random_resized_crop_flip',
)


@dataclasses.dataclass(frozen=True)
class ClassificationData:
  """A data set with its transforms; see `classification`.

  Attributes:
    open_train: opens the training split.
    test: the test split.
    train_transform: for training examples, with a random generator.
    batch_transform: for the training batch of one device; None if the recipe
      neither mixes nor erases.
    eval_transform: for test examples.
    mean: of each channel, for values in [0, 1].
    std: of each channel, for values in [0, 1].
  """

  open_train: Callable[[], Source]
  test: Source
  train_transform: transforms.Transform
  batch_transform: BatchTransform | None
  eval_transform: Callable[[Example], Example]
  mean: Moments
  std: Moments

  @functools.cached_property
  def train(self) -> Source:
    """The training split, opened at first use: evaluation can do without."""
    return self.open_train()

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return self.test.num_classes


def classification(
  name: str,
  *,
  image_size: int,
  path: str = '',
  num_examples: int = 0,
  augmentation: str = 'none',
  padding: int = 4,
  train_interpolation: str = 'random',
  randaugment: str = '',
  mixup_alpha: float = 0.0,
  cutmix_alpha: float = 0.0,
  mix_label_smoothing: float = 0.1,
  random_erasing: float = 0.0,
  eval_crop: float = 1.0,
  eval_interpolation: str = 'bilinear',
  mean: Moments | None = None,
  std: Moments | None = None,
) -> ClassificationData:
  """A data set of labelled images with its training and test transforms.

  Images leave as RGB in 0..255, uint8 [image_size, image_size, 3], to be
  normalised on the device. With random erasing, which comes after
  normalisation, training batches are float32 and already normalised.

  Args:
    name: 'digits', 'npz', 'folder', 'cifar10', 'cifar100' or 'imagenet2012'.
    image_size: side of the images in pixels.
    path: for 'npz' the file, for 'folder' the folder of the splits. The CIFAR
      and ImageNet sets are read by TFDS from this folder (empty: the default
      folder of TFDS), or from an .npz file if that is what the path names.
    num_examples: use only so many training examples, the first in
      `sources.class_balanced_order`; 0 uses all.
    augmentation: one of `AUGMENTATIONS`. 'none' resizes, 'pad_crop' is
      `transforms.PadCrop`, 'random_resized_crop' is the transform of that
      name; '_flip' adds a mirror image half of the time.
    padding: of 'pad_crop', in pixels.
    train_interpolation: 'bilinear', 'bicubic', or 'random' for either at
      random in each image.
    randaugment: such as 'rand-m9-mstd0.5-inc1'; empty for none.
    mixup_alpha: 0 for no mixup; with CutMix, each batch takes either.
    cutmix_alpha: 0 for no CutMix.
    mix_label_smoothing: smoothing of the soft labels that mixing makes;
      without mixing, labels stay integers.
    random_erasing: probability for each image; 0 for none.
    eval_crop: see `transforms.ResizeCentreCrop`.
    eval_interpolation: 'bilinear' or 'bicubic'.
    mean: of each channel for values in [0, 1]; None takes that of `MOMENTS`.
    std: likewise.

  Returns:
    The data set. Its training split is opened when first used.

  Raises:
    FileNotFoundError: the data are not there; says how to get them.
    ValueError: a value is not among those above (lists the valid ones), or
      the data are damaged (names what).

  Source: the recipes of Zhang et al., ICCV 2025, as the published program has
  them.
  """
  if name not in MOMENTS:
    raise ValueError(f'unknown data set {name!r}; must be one of {[*MOMENTS]}')
  if augmentation not in AUGMENTATIONS:
    raise ValueError(
      f'unknown augmentation {augmentation!r}; must be one of '
      f'{[*AUGMENTATIONS]}'
    )
  if name in ('npz', 'folder') and not path:
    raise ValueError(f'data set {name!r} needs a path')
  if image_size < 1:
    raise ValueError(f'image_size = {image_size} must be positive')
  mean, std = mean or MOMENTS[name][0], std or MOMENTS[name][1]
  if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
    raise ValueError(
      f'mean = {mean} and std = {std} must have three numbers, std positive'
    )
  test = _open_split(name, path, 'test')
  mix = erase = None
  if mixup_alpha or cutmix_alpha:
    mix = mixing.Mix(
      num_classes=test.num_classes,
      mixup_alpha=mixup_alpha,
      cutmix_alpha=cutmix_alpha,
      label_smoothing=mix_label_smoothing,
    )
  if random_erasing:
    erase = mixing.NormaliseAndErase(mean, std, random_erasing)
  return ClassificationData(
    open_train=functools.partial(_open_train, name, path, num_examples),
    test=test,
    train_transform=_train_transform(
      augmentation, image_size, padding, train_interpolation, randaugment, mean
    ),
    batch_transform=_batch_transform(mix, erase),
    eval_transform=transforms.ResizeCentreCrop(
      image_size, eval_crop, eval_interpolation
    ),
    mean=mean,
    std=std,
  )


def _open_split(name: str, path: str, split: Split) -> Source:
  if name == 'digits':
    return sources.digits_source(split)
  if name == 'npz' or path.endswith('.npz'):
    return npz_source(path, split)
  if name == 'folder':
    return folder_source(path, split)
  # The official test images of ImageNet have no labels.
  is_validation = name == 'imagenet2012' and split == 'test'
  tfds_split = 'validation' if is_validation else split
  return tfds_source(name, tfds_split, data_dir=path)


def _open_train(name: str, path: str, num_examples: int) -> Source:
  source = _open_split(name, path, 'train')
  if num_examples:
    return sources.first_examples(source, num_examples)
  return source


def _train_transform(
  augmentation: str,
  image_size: int,
  padding: int,
  interpolation: str,
  randaugment: str,
  mean: Moments,
) -> transforms.Transform:
  steps: list[transforms.Transform] = []
  if augmentation.startswith('random_resized_crop'):
    steps.append(
      transforms.RandomResizedCrop(image_size, interpolation=interpolation)
    )
  elif augmentation.startswith('pad_crop'):
    steps.append(transforms.PadCrop(image_size, padding, interpolation))
  else:
    steps.append(transforms.Resize(image_size, interpolation))
  if augmentation.endswith('flip'):
    steps.append(transforms.HorizontalFlip())
  if randaugment:
    red, green, blue = (round(255 * x) for x in mean)
    steps.append(RandAugment.parse(randaugment, fill=(red, green, blue)))
  return transforms.Chain(tuple(steps))


def _batch_transform(
  mix: mixing.Mix | None, erase: mixing.NormaliseAndErase | None
) -> BatchTransform | None:
  if mix and erase:
    return mixing.MixThenErase(mix, erase)
  return mix or erase
