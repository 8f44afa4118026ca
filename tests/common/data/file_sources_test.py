import io
import pickle

import numpy as np
import pytest
from PIL import Image

from common.data import file_sources


def _arrays(n=6):
  rng = np.random.default_rng(0)
  return {
    f'{kind}_{split}': values
    for split in ('train', 'test')
    for kind, values in {
      'x': rng.integers(256, size=(n, 4, 5, 3), dtype=np.uint8),
      'y': np.arange(n) % 3,
    }.items()
  }


@pytest.fixture
def save(tmp_path):
  def write(**changes):
    path = tmp_path / 'it.npz'
    kept = {k: v for k, v in (_arrays() | changes).items() if v is not None}
    np.savez(path, **kept)
    return path

  return write


def test_another_process_reads_the_npz_itself(save, tmp_path, monkeypatch):
  many = np.zeros((100, 4, 5, 3), np.uint8)
  save(x_train=many, y_train=np.arange(100) % 3)
  monkeypatch.chdir(tmp_path)
  source = file_sources.npz_source('it.npz', 'train', num_classes=7)
  message = pickle.dumps(source)
  assert len(message) < 1000
  monkeypatch.chdir('/')
  received = pickle.loads(message)
  np.testing.assert_array_equal(received.images, source.images)
  np.testing.assert_array_equal(received.labels, source.labels)
  assert received.num_classes == 7


@pytest.mark.parametrize('split', ['train', 'test'])
def test_npz(save, split):
  source = file_sources.npz_source(save(), split)
  arrays = _arrays()
  assert len(source) == 6 and source.num_classes == 3
  assert source.class_names is None
  for i in range(6):
    np.testing.assert_array_equal(source[i]['image'], arrays[f'x_{split}'][i])
    assert source[i]['label'] == arrays[f'y_{split}'][i]
    assert source[i]['label'].dtype == np.int32


def test_npz_of_grey_images(save):
  grey = _arrays()['x_train'][..., 0]
  source = file_sources.npz_source(save(x_train=grey), 'train')
  np.testing.assert_array_equal(
    source[2]['image'], np.stack([grey[2]] * 3, axis=-1)
  )


def test_npz_of_one_split(save):
  path = save(x_train=None, y_train=None)
  assert len(file_sources.npz_source(path, 'test')) == 6
  with pytest.raises(ValueError, match=r"it\.npz has no array 'x_train'; it "):
    file_sources.npz_source(path, 'train')


def test_npz_classes(save):
  # The largest label of either split counts, so both agree.
  path = save(y_test=np.array([0, 1, 2, 3, 4, 4]))
  assert file_sources.npz_source(path, 'train').num_classes == 5
  assert file_sources.npz_source(path, 'train', num_classes=9).num_classes == 9
  named = file_sources.npz_source(save(class_names=list('abcd')), 'train')
  assert named.num_classes == 4 and named.class_names == tuple('abcd')


def test_cifar_subsets(shared):
  cifar100 = shared('data/cifar100/cifar100_8k.npz')
  train = file_sources.npz_source(cifar100, 'train')
  assert len(train) == 8000 and train.num_classes == 100
  assert train.class_names[0] == 'apple'
  cifar10 = shared('data/cifar10/cifar10_test_subset.npz')
  assert len(file_sources.npz_source(cifar10, 'test')) == 600
  with pytest.raises(ValueError, match="no array 'x_train'"):
    file_sources.npz_source(cifar10, 'train')


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'y_train': None}, r"no array 'y_train'; it has \['x_test', 'x_train', "),
    ({'x_train': np.zeros((6, 4, 4, 3))}, r'x_train is float64\[6, 4, 4, 3\]'),
    ({'x_train': np.zeros((6, 4, 4, 4), np.uint8)}, r'uint8\[6, 4, 4, 4\]'),
    ({'x_train': np.zeros((6, 48), np.uint8)}, r'x_train is uint8\[6, 48\]'),
    ({'y_train': np.zeros(6)}, r'float64\[6\] and int64\[6\], but y_train'),
    ({'y_train': np.zeros((6, 1), int)}, r'labels are int64\[6, 1\]'),
    ({'y_train': np.zeros(5, int)}, 'x_train has 6 images, .* 5 labels'),
    ({'y_train': np.array([0, 1, -1, 0, 1, 2])}, r'holds labels -1\.\.2'),
    ({'class_names': ['a', 'b']}, r'labels 0\.\.2, but for 2 classes'),
    (
      {'x_train': np.zeros((0, 4, 4, 3), np.uint8), 'y_train': np.arange(0)},
      'x_train is empty',
    ),
    ({'x_train': np.array([{}] * 6)}, 'cannot be read as an .npz file'),
  ],
)
def test_bad_npz_is_named(save, changes, message):
  path = save(**changes)
  with pytest.raises(ValueError, match=rf'it\.npz.* {message}'):
    file_sources.npz_source(path, 'train')


def test_npz_with_too_many_classes(save):
  with pytest.raises(ValueError, match=r'labels 0\.\.2, but for 2 classes'):
    file_sources.npz_source(save(), 'train', num_classes=2)


def test_truncated_npz(save):
  path = save()
  path.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(ValueError, match=r'it\.npz is not an .npz file, or is'):
    file_sources.npz_source(path, 'train')


def test_npz_with_a_damaged_array(save):
  path = save()
  content = bytearray(path.read_bytes())
  content[300:340] = bytes(40)  # Within the pixels of x_train.
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r'it\.npz cannot be read'):
    file_sources.npz_source(path, 'train')


def test_other_files_are_no_npz(tmp_path):
  path = tmp_path / 'it.npz'
  with pytest.raises(FileNotFoundError, match=r'no file .*it\.npz'):
    file_sources.npz_source(path, 'train')
  with open(path, 'wb') as file:
    np.save(file, np.zeros(3))
  with pytest.raises(ValueError, match=r'it\.npz is not an .npz file'):
    file_sources.npz_source(path, 'train')


@pytest.fixture
def folder(tmp_path):
  """Two splits of three images for each of two classes."""
  for split in ('train', 'test'):
    for label, name in enumerate(('cat', 'ant')):
      parent = tmp_path / split / name
      parent.mkdir(parents=True)
      for i in range(3):
        colour = (label * 100, i, 7)
        Image.new('RGB', (5, 4), colour).save(parent / f'{i}.png')
      (parent / '.hidden.png').write_bytes(b'')
      (parent / 'notes.txt').write_text('about the images')
  return tmp_path


def test_folder(folder):
  source = file_sources.folder_source(folder, 'train')
  assert len(source) == 6 and source.num_classes == 2
  assert source.class_names == ('ant', 'cat')
  np.testing.assert_array_equal(source.labels, [0, 0, 0, 1, 1, 1])
  np.testing.assert_array_equal(
    source[4]['image'], np.full((4, 5, 3), (0, 1, 7))
  )
  assert source[4]['label'] == 1 and source[4]['label'].dtype == np.int32


def test_folder_of_validation_images(folder):
  (folder / 'test').rename(folder / 'val')
  assert len(file_sources.folder_source(folder, 'test')) == 6


def test_folder_without_a_split(folder):
  (folder / 'test').rename(folder / 'else')
  with pytest.raises(FileNotFoundError, match=r'no folder test \(or val\)'):
    file_sources.folder_source(folder, 'test')
  assert len(file_sources.folder_source(folder, 'train')) == 6
  with pytest.raises(FileNotFoundError, match='nowhere has no folder train'):
    file_sources.folder_source(folder / 'nowhere', 'train')


def test_folder_without_classes(tmp_path):
  (tmp_path / 'train').mkdir()
  with pytest.raises(ValueError, match='train has no class folders'):
    file_sources.folder_source(tmp_path, 'train')


def test_empty_class(folder):
  (folder / 'train' / 'bee').mkdir()
  (folder / 'test' / 'bee').mkdir()
  with pytest.raises(ValueError, match='train/bee has no image files'):
    file_sources.folder_source(folder, 'train')


def test_classes_of_the_splits_differ(folder):
  (folder / 'train' / 'bee').mkdir()
  with pytest.raises(ValueError, match=r"same class folders; .* \['bee'\]"):
    file_sources.folder_source(folder, 'train')


def test_truncated_image_in_a_folder(folder):
  path = folder / 'train' / 'ant' / '1.png'
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  source = file_sources.folder_source(folder, 'train')
  assert len(source) == 6
  with pytest.raises(ValueError, match=r'train/ant/1\.png cannot be decoded'):
    source[1]


@pytest.fixture(scope='session')
def tfds_dir(tmp_path_factory):
  """A small data set, prepared by TFDS itself."""
  import tensorflow_datasets as tfds

  class TinyImages(tfds.core.GeneratorBasedBuilder):
    # Else TFDS looks for the package of this test module.
    __module__ = '__main__'
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = {
        'image': tfds.features.Image(shape=(None, None, 3)),
        'label': tfds.features.ClassLabel(names=['ant', 'cat']),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {
        'train': self._generate_examples(5),
        'validation': self._generate_examples(3),
      }

    def _generate_examples(self, n):
      for i in range(n):
        encoded = io.BytesIO()
        Image.new('RGB', (6, 4), (i, 50, i % 2)).save(encoded, 'PNG')
        encoded.seek(0)
        yield i, {'image': encoded, 'label': i % 2}

  data_dir = tmp_path_factory.mktemp('tfds')
  TinyImages(
    data_dir=data_dir, file_format='array_record'
  ).download_and_prepare()
  return data_dir


def test_tfds(tfds_dir):
  source = file_sources.tfds_source(
    'tiny_images', 'validation', data_dir=tfds_dir
  )
  assert len(source) == 3 and source.num_classes == 2
  assert source.class_names == ('ant', 'cat')
  assert sorted(source.labels) == [0, 0, 1]
  # TFDS shuffles what it stores.
  reds = set()
  for i in range(3):
    example = source[i]
    assert example['image'].shape == (4, 6, 3)
    assert example['image'].dtype == np.uint8
    assert example['label'] == source.labels[i] == example['image'][0, 0, 2]
    assert example['label'].dtype == np.int32
    reds.add(int(example['image'][0, 0, 0]))
  assert reds == {0, 1, 2}


def test_tfds_source_can_be_sent_to_workers(tfds_dir):
  source = file_sources.tfds_source('tiny_images', 'train', data_dir=tfds_dir)
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(copy[3]['image'], source[3]['image'])


@pytest.mark.parametrize('name', ['cifar100', 'imagenet2012'])
def test_absent_tfds_set_says_how_to_get_it(name, tmp_path):
  message = rf"'{name}' is not prepared .*tfds build {name} --file_format=array"
  with pytest.raises(FileNotFoundError, match=message):
    file_sources.tfds_source(name, 'train', data_dir=tmp_path)


def test_tfds_needs_no_tensorflow(tfds_dir):
  import sys

  file_sources.tfds_source('tiny_images', 'train', data_dir=tfds_dir)[0]
  assert 'tensorflow' not in sys.modules
