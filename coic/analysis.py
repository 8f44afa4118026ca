r"""What CoIC has learnt: relations of sets, temperatures of masks, rain, cost.

  python -m coic.analysis --weights RUN --set rain200l=FOLDER \
    --set photos:heavy --output FOLDER

writes `analysis.json` and pictures. The sets can also be those of a config.
Weights that come without an encoder, as the published ones do, only have
temperatures, at one embedding for all pictures.
"""

import argparse
import functools
import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coic import (
  analysis_plots,
  evaluate,
  experiment,
  models,
  representations,
  temperatures,
)
from coic.encoder import embed
from coic.evaluate import Derainer
from common import (
  compilation_cache,
  configuration,
  console,
  image_ops,
  tiling,
)
from common import cost as costs
from common.array_types import Array
from common.data import derain_sets, pair_transforms
from common.data.pairs import PairSource
from common.data.sources import Example, Split

_ENCODER_SIZE = 128  # Side in pixels of what the encoder sees.

_embed = jax.jit(embed, static_argnums=0)


def cost(
  derainer: Derainer,
  *,
  size: int = 512,
  z: Array | None = None,
  warmup_runs: int = 20,
  timed_runs: int = 30,
) -> dict[str, float]:
  """Time, parameters and multiply-adds to restore a square image.

  Args:
    derainer: network and encoder.
    size: side of the image in pixels, at most `evaluate.TILE`.
    z: see `evaluate.restore`; without it, the encoder's work counts too.
    warmup_runs: runs before the timed ones, at least one, which compiles.
    timed_runs: runs that are timed, from array to array on the host.

  Returns:
    `seconds_mean` and `seconds_deviation`; `parameters`, generators included;
    `multiply_adds`, see `common.cost.multiply_adds`.

  Raises:
    ValueError: a number does not fit.

  Source: CoIC, the published timing program.
  """
  if not 0 < size <= evaluate.TILE:
    raise ValueError(f'size = {size} must be in 1..{evaluate.TILE}')
  if min(warmup_runs, timed_runs) < 1:
    raise ValueError('warmup_runs and timed_runs must be at least 1')
  image = np.random.default_rng(0).random((size, size, 3), np.float32)
  seconds = []
  for _ in range(warmup_runs + timed_runs):
    start = time.perf_counter()
    evaluate.restore(derainer, image, z=z)
    seconds.append(time.perf_counter() - start)
  seconds = seconds[warmup_runs:]

  network, encoder = derainer.network, derainer.encoder
  tiles, side = 1, len(tiling.pad_to_multiple(image, network.side_multiple))
  if network.fixed_size:
    side = network.fixed_size
    tiles = math.ceil(size / side) ** 2
  picture = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  total = 0
  one = None if z is None else jnp.asarray(z)[None]
  if one is None and encoder is not None:
    embedding = functools.partial(embed, encoder), derainer.encoder_variables
    total = costs.multiply_adds(*embedding, image[None])
    one = jnp.zeros((1, network.embedding_features))
  total += tiles * costs.multiply_adds(
    network.apply, derainer.network_variables, picture, one
  )
  weights = [part['params'] for part in derainer.variables.values()]
  return {
    'seconds_mean': float(np.mean(seconds)),
    'seconds_deviation': float(np.std(seconds)),
    'parameters': sum(x.size for x in jax.tree.leaves(weights)),
    'multiply_adds': total,
  }


def analyse(
  derainer: Derainer,
  sets: Mapping[str, PairSource],
  output: str | pathlib.Path,
  *,
  z: Array | None = None,
  num_images: int = 16,
  crop: int = 256,
  cost_size: int = 0,
) -> dict[str, Any]:
  """Analyses a derainer on sets of pairs.

  Args:
    derainer: network and encoder.
    sets: pairs by name.
    output: folder; gets `analysis.json`, and a picture of each part.
    z: embedding [embedding_features] to modulate the network by in place of
      the encoder's. Without an encoder, None means 0.
    num_images: from each set, evenly spread over it. The published analysis
      draws 400 with replacement.
    crop: side of the middle of an image of which temperatures are taken, in
      pixels; whole sides of smaller images.
    cost_size: see `cost`; 0 measures none.

  Returns:
    What `analysis.json` holds: `images` by set; with an encoder `similarity`,
    `map` and `impact`; with a modulated network `temperature`; and `cost`.

  Raises:
    ValueError: no sets, or a derainer that has neither.

  Differs from the reference: z comes from the momentum encoder and the whole
  image, as it does where images are restored. The published program takes
  temperatures from the query encoder in training mode, on the crop.
  """
  if not sets:
    raise ValueError('there is no set to analyse')
  if derainer.encoder is None and not derainer.network.modulated:
    raise ValueError('the network has no modulation, and there is no encoder')
  if z is None and derainer.encoder is None:
    z = jnp.zeros(derainer.network.embedding_features)
  output = pathlib.Path(output)
  output.mkdir(parents=True, exist_ok=True)
  chosen = {name: _choose(source, num_images) for name, source in sets.items()}
  result: dict[str, Any] = {
    'images': {name: len(pairs) for name, pairs in chosen.items()}
  }
  if derainer.encoder is not None:
    result |= _of_encoder(derainer, chosen, output)
  if derainer.network.modulated:
    result['temperature'] = {
      name: _temperatures(derainer, pairs, z, crop)
      for name, pairs in chosen.items()
    }
    analysis_plots.plot_temperatures(
      result['temperature'], output / 'temperature.png'
    )
  if cost_size:
    result['cost'] = cost(derainer, size=cost_size, z=z)
  (output / 'analysis.json').write_text(json.dumps(result, indent=2) + '\n')
  return result


def _choose(source: PairSource, count: int) -> list[Example]:
  """Pairs evenly spread over a source, and both images made small."""
  count = min(count, len(source))
  small = pair_transforms.WithWholeImages(_ENCODER_SIZE)
  rng = np.random.default_rng(0)  # Nothing is drawn.
  return [small(source[i * len(source) // count], rng) for i in range(count)]


def _of_encoder(
  derainer: Derainer, chosen: Mapping[str, list[Example]], output: pathlib.Path
) -> dict[str, Any]:
  """Relations of sets, clean images among them, and impact of rain."""
  assert derainer.encoder is not None and derainer.encoder_variables is not None
  parts = derainer.encoder, derainer.encoder_variables
  first = next(iter(chosen))
  images = {name: _stack(p, 'whole_input') for name, p in chosen.items()}
  images[f'{first}, clean'] = _stack(chosen[first], 'whole_target')
  names = [*images]
  vectors = [
    representations.dataset_vectors(*parts, x, size=_ENCODER_SIZE)
    for x in images.values()
  ]
  matrix = np.asarray(representations.similarity(vectors))
  analysis_plots.plot_similarity(matrix, names, output / 'similarity.png')

  points, method = representations.planar_map(np.concatenate(vectors))
  ends = np.cumsum([len(x) for x in vectors])[:-1]
  by_set = dict(zip(names, np.split(points, ends), strict=True))
  analysis_plots.plot_map(by_set, method, output / 'map.png')

  pairs = [pair for of_set in chosen.values() for pair in of_set]
  density = [
    np.abs(pair['input'] / 255 - pair['target'] / 255).mean() for pair in pairs
  ]
  found = representations.impact(
    *parts, _stack(pairs, 'whole_input'), _stack(pairs, 'whole_target')
  )
  rows = representations.impact_by_density(np.array(density), found)
  analysis_plots.plot_impact(rows, output / 'impact.png')
  return {
    'similarity': {
      name: dict(zip(names, row.tolist(), strict=True))
      for name, row in zip(names, matrix, strict=True)
    },
    'map': {
      'method': method,
      'points': {name: places.tolist() for name, places in by_set.items()},
    },
    'impact': rows,
  }


def _stack(pairs: Sequence[Example], key: str) -> Array:
  return image_ops.as_float(jnp.stack([pair[key] for pair in pairs]))


def _temperatures(
  derainer: Derainer, pairs: Sequence[Example], z: Array | None, crop: int
) -> dict[str, dict[str, float]]:
  """Mean and deviation over images, by layer; calls are averaged."""
  network = derainer.network
  crop = network.fixed_size or crop
  found = []
  for pair in pairs:
    if z is None:
      one = _embed(
        derainer.encoder,
        derainer.encoder_variables,
        _stack([pair], 'whole_input'),
      )
    else:
      one = jnp.asarray(z)[None]
    middle = pair_transforms.centre_crop(
      pair['input'], crop, multiple=network.side_multiple
    )
    layers = temperatures.network_temperatures(
      network,
      derainer.network_variables,
      image_ops.as_float(jnp.asarray(middle[None])),
      one,
    )
    found.append({name: float(x.mean()) for name, x in layers.items()})
  return {
    name: {
      'mean': float(np.mean([layers[name] for layers in found])),
      'deviation': float(np.std([layers[name] for layers in found])),
    }
    for name in found[0]
  }


def open_named_sets(
  items: Sequence[str], *, split: Split | None
) -> dict[str, PairSource]:
  """Opens sets as the command line names them.

  Args:
    items: 'NAME=FOLDER' for a published set, or 'photos:PRESET'.
    split: 'train' or 'test'; None for folders that hold one split alone, and
      for all photos.

  Returns:
    Sources of pairs by name.

  Raises:
    FileNotFoundError: a set is not where it should be.
    ValueError: a name is there twice, or as `derain_sets.open_set`.
  """
  opened = {}
  for item in items:
    name, _, folder = item.partition('=')
    if name in opened:
      raise ValueError(f'the set {name} is given twice')
    photos, _, preset = name.partition(':')
    options = {'preset': preset} if photos == 'photos' else {'folder': folder}
    opened[name] = derain_sets.open_set(photos, split=split, **options)
  return opened


def main(arguments: Sequence[str] | None = None) -> None:
  """Analyses a derainer; see the module, or `--help`."""
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
  sets = parser.add_mutually_exclusive_group(required=True)
  sets.add_argument(
    '--set',
    action='append',
    metavar='NAME=FOLDER',
    help='a published set and where it lies, or photos:PRESET of drawn rain; '
    + ', '.join(derain_sets.LAYOUTS),
  )
  sets.add_argument('--config', help='config whose sets to take')
  parser.add_argument(
    '--split',
    default='test',
    choices=('train', 'test', 'none'),
    help='of the sets; none if the folders hold only one',
  )
  parser.add_argument('--num_images', type=int, default=16, help='of each set')
  parser.add_argument(
    '--crop', type=int, default=256, help='side for temperatures, in pixels'
  )
  parser.add_argument(
    '--embedding', help='.npy of a z to use; without an encoder, 0 by default'
  )
  parser.add_argument(
    '--cost_size', type=int, default=0, help='time images of this side, too'
  )
  parser.add_argument('--output', required=True, help='folder')
  options = parser.parse_args(arguments)
  if options.config and options.split == 'none':
    parser.error('the sets of a --config are of --split train or test')
  compilation_cache.enable()
  try:
    derainer = evaluate.load_derainer(options.weights, name=options.model)
    if options.config:
      data = configuration.load(options.config).data
      opened = experiment.open_sets(data[f'{options.split}_sets'])
    else:
      split = None if options.split == 'none' else options.split
      opened = open_named_sets(options.set, split=split)
    z = jnp.asarray(np.load(options.embedding)) if options.embedding else None
    analyse(
      derainer,
      opened,
      options.output,
      z=z,
      num_images=options.num_images,
      crop=options.crop,
      cost_size=options.cost_size,
    )
  except (ImportError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  print(pathlib.Path(options.output) / 'analysis.json')


if __name__ == '__main__':
  console.run(main)
