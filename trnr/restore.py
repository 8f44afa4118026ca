"""Restores pictures: `python -m trnr.restore --weights W IN --output FOLDER`.

Needs nothing but weights: a run, or published weights, which are converted on
the fly. A picture is worked on in tiles.
"""

from collections.abc import Sequence

import numpy as np

from common import console, restoration, tiling
from common.array_types import Variables
from trnr import evaluate, models


def make_restore(
  network: models.RestorationNetwork,
  variables: Variables,
  *,
  tile: int = 256,
  overlap: int = 64,
  sigma: float | None = None,
) -> restoration.Restore:
  """A function that restores pictures of any size in bounded memory.

  One program is compiled for all large pictures, see `tiling.fitting_tile`.

  Args:
    network: of three channels.
    variables: of the network.
    tile: side of the tiles of large pictures in pixels.
    overlap: of neighbouring tiles in pixels, of which a quarter on each side
      is not used, since there the network misses its surroundings.
    sigma: standard deviation of the noise in units of 1/255, for networks
      that are told it.

  Returns:
    A function of RGB in [0, 1], float32 [h, w, 3], to the same.

  Raises:
    ValueError: the network is of grey pictures, or needs sigma.
  """
  if network.channels != 3:
    raise ValueError(f'the network is of {network.channels} channel, not of 3')
  if network.needs_sigma and sigma is None:
    raise ValueError('the network needs the strength of the noise: give sigma')
  level = evaluate.level_of(network, sigma)

  def run(batch: np.ndarray) -> np.ndarray:
    return np.asarray(evaluate.restore(network, variables, batch, level))

  def restore(pixels: np.ndarray) -> np.ndarray:
    return tiling.apply_in_tiles(
      run,
      pixels,
      tile=tiling.fitting_tile(*pixels.shape[:2], tile=tile),
      overlap=overlap,
      margin=overlap // 4,
    )

  return restore


def main(arguments: Sequence[str] | None = None) -> None:
  """Restores files; see the module, or `--help`."""
  parser = restoration.parser('trnr.restore', __doc__)
  parser.add_argument(
    '--sigma', type=float, help='of the noise in units of 1/255, for denoisers'
  )
  options = parser.parse_args(arguments)

  def load() -> restoration.Restore:
    network, variables = evaluate.load_network(options.weights)
    return make_restore(
      network,
      variables,
      tile=options.tile,
      overlap=options.overlap,
      sigma=options.sigma,
    )

  restoration.run(parser, options, load)


if __name__ == '__main__':
  console.run(main)
