"""Cutting, analysis and its command."""

import numpy as np
import pytest
from PIL import Image

from common.data import pairs
from trnr import patches
from trnr.patch_set import PatchSet


def test_positions_and_the_border():
  # Windows of 3 in 7 by 5 pixels; the last ones end exactly at the border.
  complete = patches.patch_positions(7, 5, size=3, stride=2)
  assert complete.tolist() == [[i, j] for i in (0, 2, 4) for j in (0, 2)]
  published = patches.patch_positions(
    7, 5, size=3, stride=2, border='published'
  )
  assert published.tolist() == [[0, 0], [2, 0]]
  shifted = patches.patch_positions(7, 5, size=3, stride=2, origin=(1, 2))
  assert shifted.tolist() == [[1, 2], [3, 2]]
  assert patches.patch_positions(2, 5, size=3, stride=1).shape == (0, 2)
  # The number that the published program gets from 481 x 321 pixels.
  assert len(patches.patch_positions(321, 481, size=50, stride=25)) == 11 * 18


def test_position_errors():
  with pytest.raises(ValueError, match='stride 0'):
    patches.patch_positions(8, 8, size=3, stride=0)
  with pytest.raises(ValueError, match="border 'none'"):
    patches.patch_positions(8, 8, size=3, stride=1, border='none')


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('pair_t045_max350', {'threshold': 0.45}),
    ('pair_t045_max5', {'threshold': 0.45, 'max_clusters': 5}),
    ('pair_t010_max350', {'threshold': 0.1}),
  ],
)
def test_stored_folders_and_files(golden, monkeypatch, name, options):
  stored = golden('trnr/patch_analysis.npz')
  rainy, clean = (stored[f'{x}_bgr'][..., ::-1] for x in ('rain', 'image'))

  class Order:
    def permutation(self, count):
      assert count == 88
      return stored['visit_order']

  monkeypatch.setattr(np.random, 'default_rng', lambda seed: Order())
  found = patches.analyse(
    pairs.ArrayPairs([rainy], [clean], ('scene',)),
    size=int(stored['patch_size']),
    stride=int(stored['stride']),
    border='published',
    **options,
  )
  places = stored[f'{name}_folder_file']
  kept = places[:, 0] >= 0
  assert len(found) == kept.sum()
  size = int(stored['patch_size'])
  for (top, left), (folder, file) in zip(
    stored['patch_top_left'][kept], places[kept], strict=True
  ):
    window = np.s_[top : top + size, left : left + size]
    index = found.starts[folder] + file
    np.testing.assert_array_equal(found.clean[index], clean[window])
    np.testing.assert_array_equal(found.degraded[index, 0], rainy[window])


def scenes(variants=1):
  """Two scenes, dark and bright, and rain that is the scene plus a number."""
  rng = np.random.default_rng(0)
  clean = [
    rng.integers(low, low + 60, (12, 16, 3), np.uint8) for low in (0, 150)
  ]
  return pairs.ArrayPairs(
    [x + np.uint8(v) for x in clean for v in range(1, variants + 1)],
    [x for x in clean for _ in range(variants)],
    tuple(f'{i}x{v}' for i in range(2) for v in range(1, variants + 1)),
  )


@pytest.mark.parametrize('variants', [1, 3])
def test_versions_of_a_scene_stay_together(variants):
  found = patches.analyse(
    scenes(variants), size=4, stride=4, threshold=100, max_clusters=1
  )
  assert found.clean.shape == (24, 4, 4, 3)
  assert found.degraded.shape == (24, variants, 4, 4, 3)
  for version in range(variants):
    np.testing.assert_array_equal(
      found.degraded[:, version], found.clean + np.uint8(version + 1)
    )
  source = scenes(variants)
  order = np.random.default_rng(0).permutation(24)
  windows = [
    source.targets[scene * variants][i : i + 4, j : j + 4]
    for scene in range(2)
    for i in (0, 4, 8)
    for j in (0, 4, 8, 12)
  ]
  np.testing.assert_array_equal(found.clean, [windows[i] for i in order])


def test_seeds_give_orders():
  def analyse(seed):
    return patches.analyse(scenes(), size=4, stride=2, threshold=6.0, seed=seed)

  first, again, other = analyse(0), analyse(0), analyse(1)
  np.testing.assert_array_equal(first.clean, again.clean)
  assert not np.array_equal(first.clean, other.clean)
  assert (np.diff(first.cluster) >= 0).all()


def test_more_grids_make_more_patches():
  options = {'size': 4, 'stride': 4, 'threshold': 100, 'max_clusters': 1}
  one = patches.analyse(scenes(), **options)
  two = patches.analyse(scenes(), **options, origins=((0, 0), (2, 2)))
  assert len(two) == len(one) + 2 * 2 * 3


def test_single_members():
  """Three patches alike and one that is not."""
  values = np.repeat(np.array([10, 10, 10, 200], np.uint8), 4)
  image = np.broadcast_to(values[None, :, None], (4, 16, 1))
  source = pairs.CleanArrays([image], ('a',))

  def sizes(single_member, smallest=1):
    found = patches.analyse(
      source,
      size=4,
      stride=4,
      single_member=single_member,
      smallest_cluster=smallest,
      threshold=0.25,
    )
    assert found.degraded is None
    return sorted(found.sizes.tolist())

  assert sizes('drop') == [3]
  assert sizes('keep') == [1, 3]
  assert sizes('merge') == [4]
  assert sizes('keep', 2) == [3]
  with pytest.raises(ValueError, match='no cluster has 4 patches'):
    sizes('drop', 4)
  with pytest.raises(ValueError, match="single_member 'none'"):
    sizes('none')


def test_analysis_errors():
  with pytest.raises(ValueError, match=r'0x1 of 12 x 16 pixels .* size 13'):
    patches.analyse(scenes(), size=13)
  with pytest.raises(ValueError, match='no cluster has 2 patches'):
    patches.analyse(scenes(), size=12, stride=9, threshold=1e-6)
  uneven = scenes(2)
  uneven = pairs.ArrayPairs(
    uneven.inputs[:3], uneven.targets[:3], uneven.names[:3]
  )
  with pytest.raises(ValueError, match=r'numbers of degraded images: \[1, 2\]'):
    patches.analyse(uneven, size=4)


@pytest.fixture
def folders(tmp_path):
  source = scenes()
  for part, images in (('rain', source.inputs), ('clean', source.targets)):
    (tmp_path / part).mkdir()
    for number, image in enumerate(images):
      Image.fromarray(image).save(tmp_path / part / f'{number}.png')
  return tmp_path


def test_command(folders, capsys):
  output = folders / 'analysis' / 'patches.npz'
  patches.main(
    [
      str(folders / 'clean'),
      str(output),
      f'--degraded={folders / "rain"}',
      *('--size=4', '--stride=4', '--threshold=6'),
      *('--origins', '0,0', '2,2'),
      f'--folders={folders / "train"}',
    ]
  )
  printed = capsys.readouterr()
  found = PatchSet.read(output)
  assert f'{output}: {found.summary()}' in printed.out
  assert '2 images, 36 patches' in printed.err
  assert output.with_suffix('.png').exists()
  assert (folders / 'train' / 'rain' / 'cp-0' / 'patch-0.png').exists()


def test_command_in_grey(folders):
  output = folders / 'grey.npz'
  patches.main(
    [
      *(str(folders / 'clean'), str(output), '--grey', '--size=4'),
      *('--threshold=6', '--single_member=merge'),
    ]
  )
  assert PatchSet.read(output).clean.shape[-1] == 1


def test_command_says_what_is_wrong(folders, capsys):
  for arguments, message in (
    ([str(folders / 'clean'), 'out.png'], 'must end in .npz'),
    ([str(folders / 'absent'), 'out.npz'], 'absent'),
    ([str(folders / 'clean'), 'out.npz'], 'no patch of size 64'),
    (
      [str(folders), 'o.npz', '--grey', f'--degraded={folders}'],
      'clean images alone',
    ),
  ):
    with pytest.raises(SystemExit):
      patches.main(arguments)
    assert message in capsys.readouterr().err
