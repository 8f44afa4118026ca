import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import tiling


def picture(height, width, channels=3):
  """Smooth waves and a little noise, in [0, 1]."""
  y, x = np.mgrid[:height, :width] / 20
  waves = 0.5 + 0.4 * np.sin(x + 0.3) * np.cos(0.7 * y)
  noise = np.random.default_rng(0).uniform(size=(height, width, channels))
  return (waves[..., None] + 0.05 * noise).astype(np.float32)


@pytest.mark.parametrize(
  'length, tile, stride, expected',
  [
    (20, 8, 8, (0, 8, 12)),
    (16, 8, 8, (0, 8)),
    (33, 16, 7, (0, 7, 14, 17)),
    (8, 8, 3, (0,)),
    (9, 8, 8, (0, 1)),
  ],
)
def test_origins(length, tile, stride, expected):
  assert tiling.tile_origins(length, tile, stride) == expected


@pytest.mark.parametrize(
  'numbers, message',
  [
    ((7, 8, 8), r'tile = 8 must be in 1\.\.7'),
    ((7, 0, 8), r'tile = 0 must be in 1\.\.7'),
    ((9, 8, 9), r'stride = 9 must be in 1\.\.8'),
    ((9, 8, 0), r'stride = 0 must be in 1\.\.8'),
  ],
)
def test_bad_origins_are_named(numbers, message):
  with pytest.raises(ValueError, match=message):
    tiling.tile_origins(*numbers)


@pytest.mark.parametrize('grid', ['grid0', 'grid1', 'grid2'])
def test_published_tiles_match_the_reference(golden, grid):
  numbers = golden('coic/tiles.npz')
  tile_height, tile_width, height, width, stride = (
    int(x) for x in numbers[f'{grid}/cfg']
  )
  rows = tiling.tile_origins(height, tile_height, stride)
  columns = tiling.tile_origins(width, tile_width, stride)
  assert rows == tuple(numbers[f'{grid}/rows'])
  assert columns == tuple(numbers[f'{grid}/cols'])
  np.testing.assert_allclose(
    tiling.published_weights(tile_height, tile_width),
    numbers[f'{grid}/score'],
    rtol=1e-6,
  )
  merged = tiling.merge(
    np.moveaxis(numbers[f'{grid}/crops'], 1, -1),
    rows,
    columns,
    weights='published',
  )
  expected = np.moveaxis(numbers[f'{grid}/merged'], 0, -1)
  np.testing.assert_allclose(merged, expected, atol=1e-6)


def test_published_merge_by_hand():
  # Tiles 0, 0 and 1, 1 at 0 and 1: in the middle, 1 / sqrt(1.001 + 1/4) of the
  # first tile's first row against the same of the second tile's second.
  ones = np.ones((2, 1, 1), np.float32)
  weights = tiling.published_weights(2, 1)
  expected = 1 / np.sqrt([1.251, 0.251])
  np.testing.assert_allclose(weights[:, 0], expected, rtol=1e-6)
  merged = tiling.merge([0 * ones, ones], (0, 1), (0,), weights='published')
  middle = expected[0] / expected.sum()
  np.testing.assert_allclose(merged.ravel(), [0, middle, 1], rtol=1e-6)


def test_feathered_weights_by_hand():
  # Two tiles of six that share four pixels.
  weights = tiling.feathered_weights((0, 2), 6)
  rise = np.sin(np.pi / 2 * np.array([1, 3, 5, 7]) / 8) ** 2
  np.testing.assert_allclose(weights[1], [*rise, 1, 1], rtol=1e-6)
  np.testing.assert_allclose(weights[0], [1, 1, *rise[::-1]], rtol=1e-6)
  weights = tiling.feathered_weights((0, 2), 6, margin=1)
  np.testing.assert_allclose(weights[1], [0, *rise_of(2), 1, 1, 1], rtol=1e-6)
  weights = tiling.feathered_weights((0, 2), 6, margin=2)
  np.testing.assert_array_equal(weights[0], [1, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(weights[1], [0, 0, 1, 1, 1, 1])
  np.testing.assert_array_equal(tiling.feathered_weights((0,), 3), [[1, 1, 1]])


def rise_of(length):
  return np.sin(np.pi / 4 * (2 * np.arange(length) + 1) / length) ** 2


@pytest.mark.parametrize(
  'length, tile, stride, margin',
  [(64, 16, 12, 2), (65, 16, 12, 0), (41, 16, 4, 6), (70, 16, 15, 0)],
)
def test_feathered_weights_add_up_to_one(length, tile, stride, margin):
  origins = tiling.tile_origins(length, tile, stride)
  weights = tiling.feathered_weights(origins, tile, margin=margin)
  total = np.zeros(length)
  for origin, weight in zip(origins, weights, strict=True):
    total[origin : origin + tile] += weight
  np.testing.assert_allclose(total, 1, rtol=1e-6)
  assert weights.dtype == np.float32 and weights.min() >= 0
  inner = weights[1:, :margin], weights[:-1, tile - margin :]
  assert not any(x.any() for x in inner)
  beside = weights[1:, margin], weights[:-1, tile - margin - 1]
  assert all((x > 0).all() for x in beside)


def recording(function):
  """The function, and a list of the shapes that it is given."""
  shapes = []

  def recorded(batch):
    shapes.append(batch.shape)
    assert batch.dtype == np.float32
    return function(batch)

  return recorded, shapes


@pytest.mark.parametrize('weights', ['feathered', 'published'])
@pytest.mark.parametrize(
  'size', [(40, 53), (16, 16), (16, 40), (7, 33), (3, 1)]
)
@pytest.mark.parametrize('overlap, batch_size', [(0, 1), (5, 4), (12, 3)])
def test_identity_comes_out_bit_for_bit(size, weights, overlap, batch_size):
  image = picture(*size)
  function, shapes = recording(lambda x: x[..., :2])
  result = tiling.apply_in_tiles(
    function,
    image,
    tile=16,
    overlap=overlap,
    weights=weights,
    batch_size=batch_size,
  )
  np.testing.assert_array_equal(result, image[..., :2], strict=True)
  assert set(shapes) == {(batch_size, 16, 16, 3)}
  rows, columns = (
    len(tiling.tile_origins(max(n, 16), 16, 16 - overlap)) for n in size
  )
  assert len(shapes) == -(-rows * columns // batch_size)


@functools.cache
def network():
  """Three convolutions that look at most 1 + 2 + 1 pixels far."""
  rng = np.random.default_rng(1)
  kernels = [
    jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:3])), 'float32')
    for shape in ((3, 3, 3, 8), (5, 5, 8, 8), (3, 3, 8, 3))
  ]

  @jax.jit
  def apply(x):
    for kernel in kernels:
      x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
      x = jnp.where(x > 0, x, 0.1 * x)
    return x

  return apply


def test_convolutions_are_as_in_the_whole_image():
  image = picture(61, 90)
  whole = np.asarray(network()(image[None])[0])
  run = functools.partial(
    tiling.apply_in_tiles, network(), image, tile=32, batch_size=2
  )
  for overlap in (8, 11):
    result = run(overlap=overlap, margin=4)
    np.testing.assert_allclose(result, whole, atol=1e-5)
  # With less margin it is so away from the borders of tiles.
  result = run(overlap=8)
  assert np.abs(result - whole).max() > 1e-3
  rows, columns = (tiling.tile_origins(n, 32, 24) for n in image.shape[:2])
  inner = np.ones(image.shape[:2], bool)
  for axis, origins in enumerate((rows, columns)):
    for left, right in zip(origins, origins[1:], strict=False):
      seam = [slice(None)] * 2
      seam[axis] = slice(right, left + 32)
      inner[tuple(seam)] = False
  assert inner.mean() > 0.25
  np.testing.assert_allclose(result[inner], whole[inner], atol=1e-5)


def test_one_compilation_for_all_sizes():
  calls = []

  @jax.jit
  def count(x):
    calls.append(x.shape)
    return 2 * x

  for size in ((40, 53), (20, 20), (9, 70)):
    image = picture(*size)
    result = tiling.apply_in_tiles(
      count, image, tile=16, overlap=4, batch_size=2
    )
    np.testing.assert_array_equal(result, 2 * image)
  assert len(calls) == 1


def test_bfloat16_results():
  image = picture(20, 20).astype(np.float64)
  result = tiling.apply_in_tiles(
    lambda x: jnp.asarray(x, jnp.bfloat16), image, tile=16, overlap=4
  )
  assert result.dtype == np.float32
  np.testing.assert_allclose(result, image, rtol=2**-8)


def steepest(image):
  """Largest steps between neighbours, per column and per row."""
  return [np.abs(np.diff(image[..., 0], axis=axis)).max() for axis in (0, 1)]


def test_feathering_leaves_no_seams():
  # What depends on averages, as CoI-M does, differs from tile to tile.
  image = picture(100, 140)[..., :1]
  image = np.float32(0.02) * image + np.linspace(
    0, 1, 140, dtype=np.float32
  ).reshape(1, 140, 1)

  def brighten(batch):
    return batch * (1 + batch.mean(axis=(1, 2), keepdims=True))

  run = functools.partial(tiling.apply_in_tiles, brighten, image, tile=32)
  tiles = [
    brighten(image[None, y : y + 32, x : x + 32])[0]
    for y in tiling.tile_origins(100, 32, 16)
    for x in tiling.tile_origins(140, 32, 16)
  ]
  within = np.max([steepest(x) for x in tiles], axis=0)
  between = steepest(run(overlap=16))
  # From tile to tile 1 + mean rises by 16 / 140 at brightness 1 at most; over
  # 16 pixels with slope pi / 2 that is one step of 0.011 at each pixel.
  assert between[0] < 1.05 * within[0]
  assert between[1] < within[1] + 1.1 * 16 / 140 * np.pi / 2 / 16
  for seams in (run(overlap=0), run(overlap=0, weights='published')):
    assert steepest(seams)[1] > 0.15
  published = run(overlap=16, weights='published')
  assert steepest(published)[1] > 1.3 * between[1]


def test_padding():
  image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
  padded = tiling.pad_to_multiple(image, 4)
  expected = [[0, 1, 2, 1], [3, 4, 5, 4], [0, 1, 2, 1], [3, 4, 5, 4]]
  np.testing.assert_array_equal(padded[..., 0], expected)
  # More than the image has to reflect.
  row = tiling.pad_to_multiple(image[:1], 8)
  np.testing.assert_array_equal(row[5, :, 0], [0, 1, 2, 1, 0, 1, 2, 1])
  assert tiling.pad_to_multiple(image, 1) is image
  batch = np.zeros((5, 9, 8, 3), np.float32)
  assert tiling.pad_to_multiple(batch, 8).shape == (5, 16, 8, 3)
  with pytest.raises(ValueError, match='multiple = 0 must be positive'):
    tiling.pad_to_multiple(image, 0)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'overlap': 8}, r'overlap = 8 must be in 0\.\.7'),
    ({'overlap': -1}, r'overlap = -1 must be in 0\.\.7'),
    ({'batch_size': 0}, 'batch_size = 0 must be positive'),
    ({'margin': 3}, r'margin = 3 must be in 0\.\.2, half of the overlap'),
    ({'margin': -1}, r'margin = -1 must be in 0\.\.2'),
    ({'weights': 'mean'}, r"weights = 'mean' must be one of \('feathered', 'p"),
    ({'weights': 'published', 'margin': 1}, 'margin = 1 must be 0 with'),
    ({'image': np.zeros((9, 9), 'float32')}, r'image float32\[9, 9\] must be'),
    ({'image': np.zeros((9, 9, 3), 'uint8')}, r'image uint8\[9, 9, 3\] must'),
    (
      {'function': lambda x: x[:, ::2]},
      r'makes \[1, 4, 8, 3\] of \[1, 8, 8, 3\]; all but the channels',
    ),
  ],
)
def test_bad_options_are_named(options, message):
  options = {
    'function': lambda x: x,
    'image': picture(20, 20),
    'tile': 8,
    'overlap': 4,
    **options,
  }
  with pytest.raises(ValueError, match=message):
    tiling.apply_in_tiles(
      options.pop('function'), options.pop('image'), **options
    )


def test_bad_tiles_are_named():
  tile = np.zeros((4, 4, 1), np.float32)
  with pytest.raises(ValueError, match='there are no tiles'):
    tiling.merge([], (0,), (0,))
  with pytest.raises(
    ValueError, match=r'\[4, 4, 1\] and \[4, 3, 1\] must have'
  ):
    tiling.merge([tile, tile[:, :3]], (0, 2), (0,))
  for count in (1, 3):
    with pytest.raises(ValueError, match='argument 3 is'):
      tiling.merge([tile] * count, (0, 2), (0,))


@pytest.mark.parametrize(
  'size, expected',
  [
    ((321, 481), (352, 512)),
    ((150, 260), (160, 288)),
    ((384, 512), (384, 512)),  # As many pixels as three tiles.
    ((64, 1), (64, 32)),
    ((385, 512), (256, 256)),
    ((3000, 4000), (256, 256)),
  ],
)
def test_small_images_are_one_tile(size, expected):
  assert tiling.fitting_tile(*size, tile=256) == expected


def test_tiles_of_two_sides():
  image = picture(40, 53)
  function, shapes = recording(lambda x: x[..., :2])
  result = tiling.apply_in_tiles(function, image, tile=(16, 64), overlap=4)
  np.testing.assert_array_equal(result, image[..., :2], strict=True)
  assert shapes == [(1, 16, 64, 3)] * 3


def test_overlap_is_nothing_to_an_image_of_one_tile():
  image = picture(20, 31)
  for tile in (32, (20, 31)):
    same = tiling.apply_in_tiles(lambda x: x, image, tile=tile, overlap=64)
    np.testing.assert_array_equal(same, image)


def test_tiles_that_overlap_by_a_side():
  with pytest.raises(ValueError, match=r'overlap = 16 must be in 0\.\.15'):
    tiling.apply_in_tiles(
      lambda x: x, picture(40, 53), tile=(16, 64), overlap=16
    )
