"""Restores and scores: `python -m coic.evaluate --weights W --set NAME=FOLDER`.

Restores the test pairs of sets; prints PSNR and SSIM per set and their means,
under named protocols (`common.metrics.PROTOCOLS`).
"""

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coic import convert, models
from coic.encoder import embed, Encoder
from common import (
  compilation_cache,
  console,
  metrics,
  pictures,
  scores,
  tiling,
  weight_conversion,
)
from common.array_types import Array, Variables
from common.checkpoints import describes_model, load_model
from common.data import derain_sets, pairs
from common.data.pairs import PairSource

MODEL_FILE = 'model.safetensors'
PROTOCOLS = ('coic_y', 'matlab_y')
TILE = 512  # Side in pixels above which images are restored in tiles.


@dataclasses.dataclass(frozen=True)
class Derainer:
  """A network and what belongs to it.

  Attributes:
    network: from `coic.models.create`.
    network_variables: its variables.
    encoder: makes the embeddings that modulate the network; None runs it
      without modulation.
    encoder_variables: those of the momentum encoder.
  """

  network: models.Backbone
  network_variables: Variables
  encoder: Encoder | None = None
  encoder_variables: Variables | None = None

  @property
  def variables(self) -> dict[str, Any]:
    """All variables, by part."""
    parts = {'network': self.network_variables}
    if self.encoder_variables is not None:
      parts['encoder'] = self.encoder_variables
    return parts


@functools.partial(jax.jit, static_argnums=0)
def _apply(
  network: models.Backbone, variables: Variables, image: Array, z: Array | None
) -> Array:
  restored: Any = network.apply(variables, image, z)
  return restored


@functools.partial(jax.jit, static_argnums=0)
def _embed(encoder: Encoder, variables: Variables, image: Array) -> Array:
  return embed(encoder, variables, image)


def restore(
  derainer: Derainer,
  image: np.ndarray,
  *,
  z: Array | None = None,
  tile: int = TILE,
  overlap: int = 0,
  weights: tiling.Weights = 'published',
) -> np.ndarray:
  """Restores one image of any size.

  Images whose shorter side is at most `tile` are restored whole, others in
  tiles that share one embedding. Networks with a size of their own (IDT) always
  work on tiles of that size. Compiles once for each size.

  Args:
    derainer: network and encoder.
    image: rainy RGB in [0, 1], float [h, w, 3].
    z: embedding [embedding_features] to use in place of the encoder's.
    tile: side of the tiles in pixels, a multiple of the network's.
    overlap: pixels that neighbouring tiles share.
    weights: how tiles are merged, see `tiling.apply_in_tiles`.

  Returns:
    RGB in [0, 1], float32 [h, w, 3].

  Raises:
    ValueError: the image is not float [h, w, 3], or an option does not fit.

  Source: CoIC, the published test programs.
  """
  network = derainer.network
  image = np.asarray(image, np.float32)
  run = tile_function(derainer, image, z=z)
  fixed = network.fixed_size
  if fixed is None and min(image.shape[:2]) <= tile:
    padded = tiling.pad_to_multiple(image, network.side_multiple)
    height, width = image.shape[:2]
    return run(padded[None])[0, :height, :width]
  return tiling.apply_in_tiles(
    run, image, tile=fixed or tile, overlap=overlap, weights=weights
  )


def tile_function(
  derainer: Derainer, image: np.ndarray, *, z: Array | None = None
) -> Callable[[np.ndarray], np.ndarray]:
  """A function that restores parts of one image, which share its embedding.

  Args:
    derainer: network and encoder.
    image: rainy RGB in [0, 1], float32 [h, w, 3].
    z: see `restore`.

  Returns:
    A function of float32 [b, h, w, 3] to RGB in [0, 1] of the same shape.
  """
  if z is not None:
    z = jnp.asarray(z)[None]
  elif derainer.encoder is not None:
    assert derainer.encoder_variables is not None
    z = _embed(derainer.encoder, derainer.encoder_variables, image[None])

  def run(batch: np.ndarray) -> np.ndarray:
    copies = None if z is None else jnp.repeat(z, len(batch), axis=0)
    restored = _apply(
      derainer.network, derainer.network_variables, batch, copies
    )
    return np.asarray(restored).clip(0, 1)

  return run


def evaluate(
  derainer: Derainer,
  source: PairSource,
  *,
  protocols: Sequence[str] = PROTOCOLS,
  z: Array | None = None,
  watch: pictures.Watch | None = None,
) -> list[scores.Score]:
  """Restores and scores all pairs; several processes share them.

  Args:
    derainer: network and encoder.
    source: pairs of `input` and `target`, uint8 [h, w, 3].
    protocols: names in `metrics.PROTOCOLS`.
    z: see `restore`.
    watch: is handed each picture that this process restores.

  Returns:
    One score for each image and protocol, in this order.

  Raises:
    ValueError: unknown protocol (lists them), or a pair cannot be read.
  """
  scores.require_protocols(protocols)
  found = []
  for index, name in enumerate(source.names):
    if not scores.is_own(index):
      continue
    pair = source[index]
    image, target = (
      np.asarray(pair[key] / 255, np.float32) for key in ('input', 'target')
    )
    restored = restore(derainer, image, z=z)
    if watch is not None:
      watch(name, image, restored, target)
    found += scores.score_image(name, restored, image, target, protocols)
  return scores.of_all_processes(found, source.names, protocols)


def scores_by_set(
  derainer: Derainer,
  sets: Mapping[str, PairSource],
  *,
  protocols: Sequence[str] = PROTOCOLS,
  restorations: pictures.Restorations | None = None,
) -> dict[str, float]:
  """Mean scores on each set, and the means over sets.

  Args:
    derainer: network and encoder.
    sets: pairs by name.
    protocols: names in `metrics.PROTOCOLS`.
    restorations: is handed what is restored, by set.

  Returns:
    `SET_PROTOCOL_psnr` in decibels and so on, see `scores.means`; the means
    over sets are under `mean_`.

  Raises:
    ValueError: as `evaluate`.
  """
  rows = {}
  for name, source in sets.items():
    watch = restorations.of_group(name) if restorations else None
    found = evaluate(derainer, source, protocols=protocols, watch=watch)
    rows[name] = scores.means(found)
  rows['mean'] = scores.mean_of(rows)
  return {
    f'{name}_{key}': value
    for name, row in rows.items()
    for key, value in row.items()
  }


def load_derainer(
  path: str | pathlib.Path, *, name: str | None = None
) -> Derainer:
  """Reads a derainer of ours, or published weights of a network.

  Args:
    path: a run folder, its `model.safetensors`, or published weights as
      `coic.convert` takes them, which have no encoder.
    name: of the network, see `models.names`, for published weights.

  Returns:
    The derainer.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, of no network of ours, or of published
      weights without a name.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / MODEL_FILE
  if not path.is_file():
    raise FileNotFoundError(f'weights {path} are not there')
  if not describes_model(path):
    if name is None:
      raise ValueError(
        f'{path} does not say which network it is for: name it, one of '
        f'{[*models.names()]}'
      )
    tensors = weight_conversion.read_tensors(path)
    variables = convert.from_torch(name, tensors)
    network = models.create(name, **convert.describe(tensors))
    return Derainer(network, variables)
  variables, description = load_model(path)
  network = models.create(**description['model'])
  if 'network' not in variables:  # From `coic.convert`.
    return Derainer(network, variables)
  if 'encoder' not in description:
    return Derainer(network, variables['network'])
  encoder = Encoder(**description['encoder'])
  return Derainer(network, variables['network'], encoder, variables['encoder'])


def main(arguments: Sequence[str] | None = None) -> None:
  """Scores the test pairs of sets; see the module, or `--help`."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--weights', required=True, help='run folder, or weights of any kind'
  )
  parser.add_argument(
    '--model', choices=models.names(), help='network, for published weights'
  )
  parser.add_argument(
    '--set',
    action='append',
    required=True,
    metavar='NAME=FOLDER',
    help=f'a published set and where it lies; {", ".join(derain_sets.LAYOUTS)}',
  )
  parser.add_argument(
    '--split',
    default='test',
    choices=('train', 'test', 'none'),
    help='of the sets; none if the folders hold only one',
  )
  parser.add_argument(
    '--num_images', type=int, default=0, help='of each set, the first ones'
  )
  parser.add_argument(
    '--zero_embedding',
    action='store_true',
    help='modulate by z = 0, where weights come without an encoder',
  )
  parser.add_argument(
    '--protocols', nargs='+', default=PROTOCOLS, choices=metrics.PROTOCOLS
  )
  parser.add_argument('--output', help='.json for the scores of each image')
  options = parser.parse_args(arguments)
  compilation_cache.enable()
  rows, every = {}, []
  try:
    derainer = load_derainer(options.weights, name=options.model)
    z = None
    if options.zero_embedding:
      z = jnp.zeros(derainer.network.embedding_features)
    for item in options.set:
      name, _, folder = item.partition('=')
      source = derain_sets.open_set(
        name,
        split=None if options.split == 'none' else options.split,
        folder=folder,
      )
      source = pairs.first(source, options.num_images)
      found = evaluate(derainer, source, protocols=options.protocols, z=z)
      rows[f'{name}, {len(source)} images'] = scores.means(found)
      every += [{'set': name, **score._asdict()} for score in found]
  except (ImportError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  if len(rows) > 1:
    rows['mean of sets'] = scores.mean_of(rows)
  print(scores.table(rows))
  if options.output:
    pathlib.Path(options.output).write_text(json.dumps(every, indent=2) + '\n')


if __name__ == '__main__':
  console.run(main)
