"""Derains pictures: `python -m coic.restore --weights W IN --output FOLDER`.

Needs nothing but weights: a run, or published weights, which are converted on
the fly. A picture is worked on in tiles that share one embedding.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from coic import evaluate, models
from common import console, restoration, tiling
from common.array_types import Array


def make_restore(
  derainer: evaluate.Derainer,
  *,
  tile: int = 256,
  overlap: int = 64,
  z: Array | None = None,
) -> restoration.Restore:
  """A function that derains pictures of any size in bounded memory.

  One program is compiled for all large pictures, see `tiling.fitting_tile`.

  Args:
    derainer: network and encoder.
    tile: side of the tiles of large pictures in pixels; networks of a fixed
      size take theirs.
    overlap: of neighbouring tiles in pixels, of which a quarter on each side
      is not used, since there the network misses its surroundings.
    z: embedding [embedding_features] to use in place of the encoder's.

  Returns:
    A function of RGB in [0, 1], float32 [h, w, 3], to the same.

  Raises:
    ValueError: the network cannot work on such tiles.
  """
  multiple = derainer.network.side_multiple
  tile = derainer.network.fixed_size or tile
  overlap = min(overlap, tile // 2)
  if tile % multiple or overlap % multiple:
    raise ValueError(
      f'tile = {tile} and overlap = {overlap} must be multiples of {multiple}'
    )

  def restore(pixels: np.ndarray) -> np.ndarray:
    fitting = (tile, tile)
    if not derainer.network.fixed_size:
      fitting = tiling.fitting_tile(*pixels.shape[:2], tile=tile)
    return tiling.apply_in_tiles(
      evaluate.tile_function(derainer, pixels, z=z),
      pixels,
      tile=fitting,
      overlap=overlap,
      margin=overlap // 4,
    )

  return restore


def main(arguments: Sequence[str] | None = None) -> None:
  """Derains files; see the module, or `--help`."""
  parser = restoration.parser('coic.restore', __doc__)
  parser.add_argument(
    '--model', choices=models.names(), help='network, for published weights'
  )
  parser.add_argument(
    '--zero_embedding',
    action='store_true',
    help='modulate by z = 0, where weights come without an encoder',
  )
  options = parser.parse_args(arguments)

  def load() -> restoration.Restore:
    derainer = evaluate.load_derainer(options.weights, name=options.model)
    z = None
    if options.zero_embedding:
      z = jnp.zeros(derainer.network.embedding_features)
    return make_restore(
      derainer, tile=options.tile, overlap=options.overlap, z=z
    )

  restoration.run(parser, options, load)


if __name__ == '__main__':
  console.run(main)
