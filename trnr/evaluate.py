"""Scores a network: `python -m trnr.evaluate --weights W --input A --target B`.

Restores every pair of two folders; prints PSNR and SSIM per image and mean,
under named protocols (`common.metrics.PROTOCOLS`). With `--sigmas`, the clean
images of `--target` get noise of these strengths instead. Each option of the
three may be given several values, one for each row of the table at the end.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common import (
  compilation_cache,
  console,
  metrics,
  scores,
  weight_conversion,
)
from common.array_types import Array, Variables
from common.checkpoints import describes_model, load_model
from common.data import pair_transforms, pairs
from common.pictures import Restorations, Watch
from trnr import convert, models

PROTOCOLS = ('trnr_rgb', 'y_8bit')


@functools.partial(jax.jit, static_argnums=0)
def restore(
  network: models.RestorationNetwork,
  variables: Variables,
  image: Array,
  sigma: Array | None = None,
) -> Array:
  """Restores images by the running statistics, compiled once per size.

  Args:
    network: from `trnr.models.create`.
    variables: of the network.
    image: degraded, float [b, h, w, c], clean values in [0, 1].
    sigma: of the noise, [b], for networks with a noise map.

  Returns:
    Float [b, h, w, c] in [0, 1].
  """
  options: dict[str, Any] = {} if sigma is None else {'sigma': sigma}
  restored: Any = network.apply(variables, image, **options)
  return restored.clip(0, 1)


def evaluate(
  network: models.RestorationNetwork,
  variables: Variables,
  source: pairs.PairSource,
  *,
  protocols: Sequence[str] = PROTOCOLS,
  sigma: float | None = None,
  watch: Watch | None = None,
) -> list[scores.Score]:
  """Restores and scores all pairs, whole; several processes share them.

  Args:
    network: from `trnr.models.create`.
    variables: of the network.
    source: pairs of `input` and `target`, uint8 [h, w, c]. With `sigma`, the
      input is the target plus noise: the draws come from one generator with
      seed 0, image by image in the string order of the names, and the sum is
      not clipped.
    protocols: names in `metrics.PROTOCOLS`.
    sigma: standard deviation of the noise in units of 1/255, or None.
    watch: is handed each picture that this process restores.

  Returns:
    One score for each image and protocol, in this order.

  Raises:
    ValueError: unknown protocol (lists them), or a pair cannot be read.

  Source: Ran et al., the test programs.
  """
  scores.require_protocols(protocols)
  found, names = [], []
  for index, (name, image, target) in enumerate(pictures(source, sigma)):
    names.append(name)
    if not scores.is_own(index):
      continue
    restored = np.asarray(
      restore(network, variables, image, level_of(network, sigma))
    )
    if watch is not None:
      watch(name, image[0], restored[0], target[0])
    found += scores.score_image(
      name, restored[0], image[0], target[0], protocols
    )
  return scores.of_all_processes(found, names, protocols)


def scores_by_strength(
  network: models.RestorationNetwork,
  variables: Variables,
  source: pairs.PairSource,
  *,
  protocols: Sequence[str] = PROTOCOLS,
  sigmas: Sequence[float] = (),
  restorations: Restorations | None = None,
) -> dict[str, float]:
  """Mean scores, for each strength of noise if there is noise.

  Args:
    network: see `evaluate`, as for the next three.
    variables: of the network.
    source: pairs.
    protocols: names in `metrics.PROTOCOLS`.
    sigmas: of the noise, see `evaluate`; none for pairs as they are.
    restorations: is handed what is restored, by strength.

  Returns:
    See `scores.means`; with noise each name begins with `sigmaS_`.

  Raises:
    ValueError: as `evaluate`.
  """
  found: dict[str, float] = {}
  for sigma in sigmas or (None,):
    name = '' if sigma is None else f'sigma{sigma:g}'
    scored = evaluate(
      network,
      variables,
      source,
      protocols=protocols,
      sigma=sigma,
      watch=restorations.of_group(name) if restorations else None,
    )
    prefix = f'{name}_' if name else ''
    found |= {prefix + k: x for k, x in scores.means(scored).items()}
  return found


def load_network(
  path: str | pathlib.Path,
) -> tuple[models.RestorationNetwork, Variables]:
  """Reads a network of ours, or published weights.

  Args:
    path: a run folder, its `model.safetensors`, or published weights as
      `trnr.convert` takes them.

  Returns:
    The module and its variables.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged or of no network of ours.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / 'model.safetensors'
  if not path.is_file():
    raise FileNotFoundError(f'weights {path} are not there')
  if not describes_model(path):
    tensors = weight_conversion.read_tensors(path)
    variables = convert.from_torch(tensors)
    return models.create(**convert.describe(tensors)), variables
  variables, description = load_model(path)
  return models.create(**description['model']), variables


def level_of(
  network: models.RestorationNetwork, sigma: float | None
) -> Array | None:
  """What `restore` takes for one image with noise of strength `sigma` / 255."""
  if not network.needs_sigma:
    return None
  return jnp.full((1,), (sigma or 0) / 255, jnp.float32)


def pictures(
  source: pairs.PairSource, sigma: float | None = None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Name, degraded and clean image of each element, as `evaluate` scores them.

  Args:
    source: see `evaluate`.
    sigma: see `evaluate`.

  Yields:
    Name, and float32 [1, h, w, c] in [0, 1] of both; noise leaves that range.
  """
  generator = np.random.RandomState(0)
  indices: Sequence[int] = range(len(source))
  if sigma is not None:
    indices = sorted(indices, key=lambda index: source.names[index])
  for index in indices:
    name, pair = source.names[index], source[index]
    target = pair['target']
    if sigma is None:
      image = np.asarray(pair['input'] / 255, np.float32)
    else:
      image = pair_transforms.add_gaussian_noise(target, sigma / 255, generator)
    yield name, image[None], np.asarray(target / 255, np.float32)[None]


def main(arguments: Sequence[str] | None = None) -> None:
  """Scores folders; see the module, or `--help`."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--weights',
    nargs='+',
    required=True,
    help='run folders, or weights of any kind',
  )
  parser.add_argument('--input', nargs='+', help='folders of degraded images')
  parser.add_argument(
    '--target', nargs='+', required=True, help='folders of clean images'
  )
  for side in ('input', 'target'):
    parser.add_argument(
      f'--{side}_pattern',
      default=r'(.+)\.\w+',
      help='regular expression whose group pairs the file names',
    )
  parser.add_argument(
    '--sigmas',
    type=float,
    nargs='+',
    help='noise to add to the clean images, in units of 1/255',
  )
  parser.add_argument(
    '--protocols',
    nargs='+',
    default=PROTOCOLS,
    choices=metrics.PROTOCOLS,
  )
  parser.add_argument('--output', help='.json for the scores of each image')
  options = parser.parse_args(arguments)
  if (options.input is None) == (options.sigmas is None):
    parser.error('give either --input or --sigmas')
  inputs = options.input or [None] * len(options.target)
  if not len(options.weights) == len(inputs) == len(options.target):
    parser.error('--weights, --input and --target need equally many values')
  compilation_cache.enable()
  rows, every = {}, []
  try:
    for weights, degraded, clean in zip(
      options.weights, inputs, options.target, strict=True
    ):
      network, variables = load_network(weights)
      source: pairs.PairSource
      if options.sigmas:
        source = pairs.clean_folder(clean, grey=network.channels == 1)
      else:
        source = pairs.paired_folders(
          degraded,
          clean,
          input_pattern=options.input_pattern,
          target_pattern=options.target_pattern,
        )
      for sigma in options.sigmas or [None]:
        found = evaluate(
          network, variables, source, protocols=options.protocols, sigma=sigma
        )
        for score in found:
          print(
            f'{score.name}  {score.protocol}  {score.psnr:.3f} dB  '
            f'{score.ssim:.4f}'
          )
        folder = '/'.join(pathlib.Path(clean).parts[-2:])
        name = f'{pathlib.Path(weights).stem} on {folder}, {len(source)} images'
        if sigma is not None:
          name += f', sigma {sigma:g}'
        rows[name] = scores.means(found)
        facts = {'weights': weights, 'target': clean, 'sigma': sigma}
        every += [facts | score._asdict() for score in found]
  except (ImportError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  print(scores.table(rows))
  if options.output:
    pathlib.Path(options.output).write_text(json.dumps(every, indent=2) + '\n')


if __name__ == '__main__':
  console.run(main)
