import inspect
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest

from common import data as data_package
from common.data import datasets, mixing, transforms
from common.data.augmentations import RandAugment


@pytest.fixture
def npz_path(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {}
  for split, n in (('train', 24), ('test', 9)):
    arrays[f'x_{split}'] = rng.integers(
      256, size=(n, 12, 12, 3), dtype=np.uint8
    )
    arrays[f'y_{split}'] = np.arange(n) % 3
  np.savez(tmp_path / 'it.npz', **arrays)
  return str(tmp_path / 'it.npz')


def _stream(data, **options):
  options = {'batch_size': 8, 'seed': 0} | options
  return data_package.train_iterator(
    data.train,
    data.train_transform,
    batch_transform=data.batch_transform,
    **options,
  )


def test_digits():
  data = data_package.classification(
    'digits', image_size=16, augmentation='pad_crop', padding=2
  )
  assert (len(data.train), len(data.test)) == (1197, 600)
  assert data.num_classes == 10
  batch = next(_stream(data))
  assert batch['image'].shape == (8, 16, 16, 3)
  assert batch['image'].dtype == np.uint8
  assert batch['label'].shape == (8,) and batch['label'].dtype == np.int32


def test_moments_of_digits_are_those_of_the_training_split():
  data = data_package.classification('digits', image_size=8)
  pixels = data.train.images / 255
  assert data.mean[0] == pytest.approx(pixels.mean(), abs=1e-3)
  assert data.std[0] == pytest.approx(pixels.std(), abs=1e-3)


def test_evaluation(npz_path):
  data = data_package.classification(
    'npz', path=npz_path, image_size=8, eval_crop=0.8
  )
  batches = list(
    data_package.evaluation_batches(
      data.test, data.eval_transform, batch_size=4
    )
  )
  assert [b['image'].shape for b in batches] == [(4, 8, 8, 3)] * 3
  assert sum(b['mask'].sum() for b in batches) == 9
  assert data.eval_transform == transforms.ResizeCentreCrop(8, 0.8, 'bilinear')


def test_full_recipe(npz_path):
  data = data_package.classification(
    'cifar100',
    path=npz_path,
    image_size=24,
    augmentation='random_resized_crop_flip',
    randaugment='rand-m9-mstd0.5-inc1',
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    random_erasing=0.25,
    eval_crop=0.9,
    eval_interpolation='bicubic',
  )
  assert data.train_transform == transforms.Chain(
    (
      transforms.RandomResizedCrop(24),
      transforms.HorizontalFlip(),
      RandAugment(9, 0.5, True, fill=(129, 124, 112)),
    )
  )
  assert data.batch_transform == mixing.MixThenErase(
    mixing.Mix(3, 0.8, 1.0), mixing.NormaliseAndErase(data.mean, data.std, 0.25)
  )
  stream = _stream(data, device_count=2)
  batches = list(itertools.islice(stream, 4))
  for batch in batches:
    assert batch['image'].shape == (8, 24, 24, 3)
    assert batch['image'].dtype == np.float32
    assert batch['label'].shape == (8, 3)
    assert batch['label'].dtype == np.float32
  resumed = next(_stream(data, device_count=2, start_step=3))
  np.testing.assert_array_equal(resumed['image'], batches[3]['image'])
  np.testing.assert_array_equal(resumed['label'], batches[3]['label'])
  # Everything that workers receive can be sent.
  pickle.dumps((data.train, data.train_transform, data.batch_transform))


@pytest.mark.parametrize(
  'augmentation, expected',
  [
    ('none', (transforms.Resize(6, 'bilinear'),)),
    ('pad_crop', (transforms.PadCrop(6, 1, 'bilinear'),)),
    (
      'pad_crop_flip',
      (transforms.PadCrop(6, 1, 'bilinear'), transforms.HorizontalFlip()),
    ),
    (
      'random_resized_crop',
      (transforms.RandomResizedCrop(6, interpolation='bilinear'),),
    ),
    (
      'random_resized_crop_flip',
      (
        transforms.RandomResizedCrop(6, interpolation='bilinear'),
        transforms.HorizontalFlip(),
      ),
    ),
  ],
)
def test_augmentations(npz_path, augmentation, expected):
  data = data_package.classification(
    'npz',
    path=npz_path,
    image_size=6,
    augmentation=augmentation,
    padding=1,
    train_interpolation='bilinear',
  )
  assert data.train_transform == transforms.Chain(expected)
  assert data.batch_transform is None


def test_mixing_and_erasing_can_stand_alone(npz_path):
  options = {'path': npz_path, 'image_size': 6}
  data = data_package.classification('npz', mixup_alpha=0.2, **options)
  assert data.batch_transform == mixing.Mix(3, 0.2, 0.0)
  data = data_package.classification('npz', random_erasing=0.1, **options)
  assert data.batch_transform == mixing.NormaliseAndErase(
    data.mean, data.std, 0.1
  )


def test_randaugment_fills_with_the_rounded_mean(npz_path):
  data = data_package.classification(
    'npz',
    path=npz_path,
    image_size=6,
    randaugment='rand-m7-mstd0.5',
    mean=(0.4914, 0.4822, 0.4465),
  )
  augment = data.train_transform.transforms[-1]
  assert augment == RandAugment(7, 0.5, False, fill=(125, 123, 114))


def test_num_examples_limits_training_only(npz_path):
  data = data_package.classification(
    'npz', path=npz_path, image_size=6, num_examples=6
  )
  assert (len(data.train), len(data.test)) == (6, 9)
  np.testing.assert_array_equal(np.bincount(data.train.labels), [2, 2, 2])


def test_published_moments():
  assert datasets.MOMENTS['cifar100'] == (
    (0.5071, 0.4865, 0.4409),
    (0.2673, 0.2564, 0.2762),
  )
  assert datasets.MOMENTS['imagenet2012'] == (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
  )


def test_moments_can_be_given(npz_path):
  mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
  data = data_package.classification(
    'npz', path=npz_path, image_size=6, mean=mean, std=std
  )
  assert (data.mean, data.std) == (mean, std)


def test_test_split_alone_can_be_evaluated(shared):
  path = shared('data/cifar10/cifar10_test_subset.npz')
  data = data_package.classification('cifar10', path=str(path), image_size=32)
  assert len(data.test) == 600 and data.num_classes == 10
  with pytest.raises(ValueError, match="no array 'x_train'"):
    data.train  # noqa: B018


def test_imagenet_is_tested_on_its_validation_split(monkeypatch):
  opened = []
  monkeypatch.setattr(
    datasets,
    'tfds_source',
    lambda name, split, data_dir: opened.append((name, split, data_dir)),
  )
  data = data_package.classification(
    'imagenet2012', path='/data', image_size=224
  )
  data.train  # noqa: B018
  assert opened == [
    ('imagenet2012', 'validation', '/data'),
    ('imagenet2012', 'train', '/data'),
  ]


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'name': 'mnist'}, r"'mnist'; must be one of \['digits', 'npz', 'folder'"),
    ({'name': 'npz'}, "'npz' needs a path"),
    ({'name': 'folder'}, "'folder' needs a path"),
    ({'augmentation': 'flip'}, r"'flip'; must be one of \['none', 'pad_crop'"),
    ({'image_size': 0}, 'image_size = 0'),
    ({'padding': -1, 'augmentation': 'pad_crop'}, 'padding = -1'),
    ({'train_interpolation': 'cubic'}, r"'cubic'; must be one of \['bilinear'"),
    ({'eval_interpolation': 'random'}, "interpolation 'random'"),
    ({'eval_crop': 1.1}, 'crop = 1.1'),
    ({'randaugment': 'm9'}, "cannot read randaugment 'm9'"),
    ({'mixup_alpha': -0.1}, 'mixup_alpha'),
    ({'random_erasing': 1.1}, 'probability = 1.1'),
    ({'mean': (0.5,)}, r'mean = \(0.5,\)'),
    ({'std': (0.5, 0.0, 0.5)}, 'std positive'),
  ],
)
def test_bad_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    data_package.classification(
      **({'name': 'digits', 'image_size': 8} | settings)
    )


def test_absent_set_says_how_to_get_it(tmp_path):
  with pytest.raises(FileNotFoundError, match='tfds build cifar10 --file_form'):
    data_package.classification('cifar10', path=str(tmp_path), image_size=32)


def test_mistyped_key_is_an_error():
  with pytest.raises(TypeError, match='imagesize'):
    data_package.classification('digits', imagesize=8)


def test_every_argument_is_described():
  parameters = inspect.signature(data_package.classification).parameters
  for name in parameters:
    assert f'  {name}: ' in inspect.getdoc(data_package.classification)


def test_import_is_light():
  # Other packages must not pay for what only some data sets need.
  code = (
    'import sys, common.data; print([m for m in ("tensorflow", "torch", '
    '"sklearn", "tensorflow_datasets") if m in sys.modules])'
  )
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert found.stdout.strip() == '[]'
