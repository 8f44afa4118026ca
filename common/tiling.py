"""Large images in overlapping tiles, on the host: NumPy in, NumPy out."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import get_args, Literal

import numpy as np

from common.array_types import ArrayLike

Weights = Literal['feathered', 'published']


def tile_origins(length: int, tile: int, stride: int) -> tuple[int, ...]:
  """First pixels of the tiles along one side of an image.

  Multiples of the stride; where these leave a rest, one more tile flush with
  the end, which overlaps its neighbour by more.

  Args:
    length: of the side, in pixels.
    tile: side of a tile in pixels, 1..length.
    stride: distance of tiles in pixels, 1..tile.

  Returns:
    The positions in ascending order.

  Raises:
    ValueError: a number is out of range.

  Source: Ran et al., ICLR 2024, the program (its test script).
  """
  if not 1 <= tile <= length:
    raise ValueError(f'tile = {tile} must be in 1..{length}, the length')
  if not 1 <= stride <= tile:
    raise ValueError(f'stride = {stride} must be in 1..{tile}, the tile')
  origins = [*range(0, length - tile + 1, stride)]
  if origins[-1] < length - tile:
    origins.append(length - tile)
  return tuple(origins)


def published_weights(height: int, width: int) -> np.ndarray:
  """Inverse distance of a tile's pixels from its middle.

  1 / sqrt((y - h / 2)^2 + (x - w / 2)^2 + 1e-3). Borders of tiles keep some
  weight, so seams show where neighbours disagree.

  Args:
    height: of the tile, in pixels.
    width: of the tile, in pixels.

  Returns:
    Positive, float32 [height, width].

  Source: Ran et al., ICLR 2024, the program (its test script).
  """
  y, x = np.arange(height) - height / 2, np.arange(width) - width / 2
  squared = y[:, None] ** 2 + x[None, :] ** 2
  return (1 / np.sqrt(squared + 1e-3)).astype(np.float32)


def feathered_weights(
  origins: Sequence[int], tile: int, *, margin: int = 0
) -> np.ndarray:
  """Weights along one side that fade where tiles overlap.

  A tile counts fully where it is alone. Towards a neighbour it fades over
  their overlap, less `margin` at both ends, as a squared sine; what the
  neighbour gets adds up to 1. At the borders of the image nothing fades.

  Args:
    origins: first pixels of the tiles, ascending.
    tile: side of a tile in pixels.
    margin: pixels next to a neighbour that get no weight. With the radius of a
      network's receptive field, only what is as in the whole image counts.

  Returns:
    In [0, 1], of sum 1 at every pixel, float32 [tiles, tile].

  Raises:
    ValueError: two neighbours overlap by less than twice the margin.
  """
  weights = np.ones((len(origins), tile))
  for index, (left, right) in enumerate(
    zip(origins, origins[1:], strict=False)
  ):
    overlap = left + tile - right
    if not 0 <= 2 * margin <= overlap:
      raise ValueError(
        f'margin = {margin} must be in 0..{max(overlap, 0) // 2}, half of the '
        'overlap of tiles'
      )
    rising = _ramp(tile, margin, overlap - 2 * margin)
    weights[index] *= rising[::-1]
    weights[index + 1] *= rising
  total = np.zeros(origins[-1] + tile)
  for origin, weight in zip(origins, weights, strict=True):
    total[origin : origin + tile] += weight
  for origin, weight in zip(origins, weights, strict=True):
    weight /= total[origin : origin + tile]
  return weights.astype(np.float32)


def merge(
  tiles: Iterable[np.ndarray],
  rows: Sequence[int],
  columns: Sequence[int],
  *,
  weights: Weights = 'feathered',
  margin: int = 0,
) -> np.ndarray:
  """Puts tiles together, as their weighted mean.

  Takes the tiles one by one and needs no memory beyond the result and a
  channel of weights. What overlapping tiles agree on comes out bit for bit.

  Args:
    tiles: float [tile_height, tile_width, channels] each, row by row.
    rows: first pixels of the tiles along the height, from `tile_origins`.
    columns: the same along the width.
    weights: 'feathered' or 'published', see the functions of these names.
    margin: see `feathered_weights`; 0 for published weights.

  Returns:
    The image, float32 [height, width, channels].

  Raises:
    ValueError: unknown weights, a margin with published ones, tiles of
      several sizes, or not one for each position, or as of
      `feathered_weights`.
  """
  if weights not in get_args(Weights):
    raise ValueError(
      f'weights = {weights!r} must be one of {get_args(Weights)}'
    )
  if margin and weights == 'published':
    raise ValueError(f'margin = {margin} must be 0 with published weights')
  tiles = iter(tiles)
  first = next(tiles, None)
  if first is None:
    raise ValueError('there are no tiles to merge')
  height, width, channels = first.shape
  merged = np.zeros(
    (rows[-1] + height, columns[-1] + width, channels), np.float32
  )
  total = np.zeros((*merged.shape[:2], 1), np.float32)
  places = itertools.product(rows, columns)
  maps = _weight_maps(rows, columns, (height, width), weights, margin)
  for (top, left), weight, tile in zip(
    places, maps, itertools.chain([first], tiles), strict=True
  ):
    if tile.shape != first.shape:
      raise ValueError(
        f'tiles {list(first.shape)} and {list(tile.shape)} must have one shape'
      )
    here = np.s_[top : top + height, left : left + width]
    total[here] += weight
    # A running mean: where tiles agree, nothing is added to the first.
    share = np.divide(
      weight, total[here], out=np.zeros_like(weight), where=weight > 0
    )
    merged[here] += share * (tile - merged[here])
  return merged


def apply_in_tiles(
  function: Callable[[np.ndarray], ArrayLike],
  image: np.ndarray,
  *,
  tile: int | tuple[int, int],
  overlap: int,
  margin: int = 0,
  weights: Weights = 'feathered',
  batch_size: int = 1,
) -> np.ndarray:
  """Applies a function to an image of any size, tile by tile.

  The function sees one shape, so it is compiled once for all images, and its
  memory is that of `batch_size` tiles. An image that is smaller than a tile is
  continued by reflection, and the result cut back.

  The result is that of the whole image if the function looks no further than
  `margin` pixels. If it also shrinks the image inside by a factor, that factor
  must divide `tile`, `overlap` and the sides of the image (`pad_to_multiple`).
  Functions of averages over the whole image differ from tile to tile;
  feathering turns that into a slow change without seams.

  Args:
    function: of float32 [batch_size, tile, tile, channels], to floats
      [batch_size, tile, tile, new_channels]; such as a jitted network.
    image: float [height, width, channels].
    tile: side of the tiles in pixels.
    overlap: of neighbours in pixels, at least twice the margin; 0..tile-1 where
      there are any.
    margin: see `feathered_weights`.
    weights: see `merge`. The published program's tiles are of 512 pixels and
      do not overlap but at the end.
    batch_size: tiles that are given to the function together.

  Returns:
    Float32 [height, width, new_channels].

  Raises:
    ValueError: a size is out of range, the image is of another kind, the
      function changes the size of tiles, or as of `merge`.
  """
  if image.ndim != 3 or not np.issubdtype(image.dtype, np.floating):
    raise ValueError(
      f'image {image.dtype}{list(image.shape)} must be floating [height, '
      'width, channels]'
    )
  sides = (tile, tile) if isinstance(tile, int) else tile
  if batch_size < 1:
    raise ValueError(f'batch_size = {batch_size} must be positive')
  height, width, _ = image.shape
  padded = _pad(image, max(sides[0], height), max(sides[1], width))
  for length, side in zip(padded.shape[:2], sides, strict=True):
    # A tile as large as the image has no neighbour.
    if overlap < 0 or overlap >= side < length:
      raise ValueError(f'overlap = {overlap} must be in 0..{side - 1}')
  rows, columns = (
    tile_origins(length, side, side if side == length else side - overlap)
    for length, side in zip(padded.shape[:2], sides, strict=True)
  )
  results = _results(function, padded, rows, columns, sides, batch_size)
  merged = merge(results, rows, columns, weights=weights, margin=margin)
  return merged[:height, :width]


def fitting_tile(
  height: int, width: int, *, tile: int, multiple: int = 32
) -> tuple[int, int]:
  """Height and width of tiles for an image; all of a small one.

  An image of up to three tiles is one tile, which costs least and has no
  borders inside. Sides are rounded up, so that few shapes are compiled.

  Args:
    height: of the image in pixels.
    width: of the image in pixels.
    tile: side of the tiles of large images in pixels.
    multiple: of which the sides of small images are made.

  Returns:
    In pixels; `tile` x `tile` for all large images.
  """
  rounded = tuple(side + -side % multiple for side in (height, width))
  if rounded[0] * rounded[1] <= 3 * tile**2:
    return rounded[0], rounded[1]
  return tile, tile


def pad_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
  """Continues images by reflection on the right and at the bottom.

  To undo it, take `[..., :height, :width, :]` of the result.

  Args:
    image: [..., height, width, channels].
    multiple: what the new sides are multiples of, in pixels.

  Returns:
    The image with the smallest such sides; itself if they are already.

  Raises:
    ValueError: the multiple is not positive.

  Source: Ran et al., ICLR 2024, the program (its test script).
  """
  if multiple < 1:
    raise ValueError(f'multiple = {multiple} must be positive')
  height, width = image.shape[-3:-1]
  return _pad(image, height + -height % multiple, width + -width % multiple)


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Reflects at the last pixel, and again where the image is too small."""
  down, right = height - image.shape[-3], width - image.shape[-2]
  if not down and not right:
    return image
  before = [(0, 0)] * (image.ndim - 3)
  return np.pad(image, [*before, (0, down), (0, right), (0, 0)], 'reflect')


def _weight_maps(
  rows: Sequence[int],
  columns: Sequence[int],
  size: tuple[int, int],
  weights: Weights,
  margin: int,
) -> Iterator[np.ndarray]:
  """Weights of the tiles, row by row, float32 [height, width, 1] each."""
  if weights == 'published':
    for _ in range(len(rows) * len(columns)):
      yield published_weights(*size)[..., None]
    return
  along_rows = feathered_weights(rows, size[0], margin=margin)
  along_columns = feathered_weights(columns, size[1], margin=margin)
  for down, right in itertools.product(along_rows, along_columns):
    yield np.outer(down, right)[..., None]


def _results(
  function: Callable[[np.ndarray], ArrayLike],
  image: np.ndarray,
  rows: Sequence[int],
  columns: Sequence[int],
  tile: tuple[int, int],
  batch_size: int,
) -> Iterator[np.ndarray]:
  """Results for the tiles, row by row, [*tile, channels] each."""
  height, width = tile
  places = [*itertools.product(rows, columns)]
  for start in range(0, len(places), batch_size):
    # The last batch, too, has the shape that is compiled.
    chosen = places[start : start + batch_size]
    filled = chosen + chosen[-1:] * (batch_size - len(chosen))
    batch = np.stack(
      [image[top : top + height, left : left + width] for top, left in filled]
    )
    results = np.asarray(function(batch.astype(np.float32)), np.float32)
    if results.shape[:-1] != batch.shape[:-1]:
      raise ValueError(
        f'the function makes {list(results.shape)} of {list(batch.shape)}; all '
        'but the channels must stay'
      )
    yield from results[: len(chosen)]


def _ramp(tile: int, margin: int, length: int) -> np.ndarray:
  """From 0 within a margin to 1, as a squared sine over so many pixels."""
  distance = np.arange(tile) - margin
  if length == 0:
    return (distance >= 0).astype(np.float64)
  rise = ((distance + 0.5) / length).clip(0, 1)
  return np.sin(np.pi / 2 * rise) ** 2
