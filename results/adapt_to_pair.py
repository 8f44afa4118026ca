"""Adapts published weights to one pair and scores them on other pictures.

`python -m results.adapt_to_pair --weights WEIGHTS --input RAINY --target CLEAN
--output FOLDER` takes the inner steps of TRNR on patches of one pair and
restores pictures that were no part of it; from each of a few pairs, on its own.
Writes `FOLDER/analysis.json`: mean PSNR in dB under trnr_rgb, of the rainy
pictures (`input`), as published (`published`), and after so many steps with the
published running statistics (`N`) or with those of the patches
(`N, own statistics`).
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from common import compilation_cache, console, scores
from common.array_types import Variables
from common.data import pair_transforms, pairs
from trnr import adaptation, evaluate, models, train

_PROTOCOL = 'trnr_rgb'
_STEPS = (2, 20)


def scores_after_adapting(
  network: models.RestorationNetwork,
  variables: Variables,
  source: pairs.PairSource,
  *,
  num_pairs: int,
  num_patches: int = 12,
  size: int = 64,
  seed: int = 0,
) -> dict[str, float]:
  """Mean scores on what follows the first pairs, adapted to each of these.

  Args:
    network: from `trnr.evaluate.load_network`.
    variables: of the network, with its inner learning rates.
    source: pairs; the first ones are adapted to, the others restored.
    num_pairs: so many are adapted to.
    num_patches: drawn from each.
    size: of their sides, in pixels.
    seed: of the draws.

  Returns:
    PSNR in dB, see the module for the names.

  Raises:
    ValueError: no pictures are left to restore, or a pair is smaller than a
      patch.
  """
  if not 0 < num_pairs < len(source):
    raise ValueError(f'num_pairs {num_pairs} must be in 1..{len(source) - 1}')
  adapt = jax.jit(
    functools.partial(adaptation.adapt, train.make_loss_fn(network)),
    static_argnames='inner_steps',
  )
  published = {key: variables[key] for key in ('params', 'batch_stats')}
  candidates: dict[str, list[Variables]] = {'published': [published]}
  generator = np.random.default_rng(seed)
  crop = pair_transforms.PairCrop(size)
  for index in range(num_pairs):
    pair = source[index]
    crops = [crop(pair, generator) for _ in range(num_patches)]
    patches = {
      side: jnp.stack([x[side] for x in crops]) for side in ('input', 'target')
    }
    for steps in _STEPS:
      params, batch_stats, _ = adapt(
        *published.values(),
        patches,
        inner_learning_rate=variables['inner_learning_rates'],
        inner_steps=steps,
      )
      for name, kept in (
        (f'{steps}', published['batch_stats']),
        (f'{steps}, own statistics', batch_stats),
      ):
        adapted = {'params': params, 'batch_stats': kept}
        candidates.setdefault(name, []).append(adapted)
  others = pairs.Part(source, range(num_pairs, len(source)))
  found: dict[str, float] = {}
  for name, several in candidates.items():
    means = [
      scores.means(
        evaluate.evaluate(network, each, others, protocols=(_PROTOCOL,))
      )
      for each in several
    ]
    found['input'] = means[0][f'{_PROTOCOL}_input_psnr']
    found[name] = float(np.mean([x[f'{_PROTOCOL}_psnr'] for x in means]))
    print(f'{name}: {found[name]:.2f} dB, rainy {found["input"]:.2f} dB')
  return found


def main(arguments: Sequence[str] | None = None) -> None:
  """Adapts and scores; see the module, or `--help`."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--weights', required=True, help='published weights')
  parser.add_argument('--input', required=True, help='rainy pictures')
  parser.add_argument('--target', required=True, help='the clean ones')
  parser.add_argument('--output', required=True, help='folder')
  parser.add_argument(
    '--num_pairs', type=int, default=3, help='so many are adapted to'
  )
  parser.add_argument(
    '--num_others', type=int, default=4, help='so many are restored'
  )
  options = parser.parse_args(arguments)
  compilation_cache.enable()
  try:
    network, variables = evaluate.load_network(options.weights)
    source = pairs.first(
      pairs.paired_folders(options.input, options.target),
      options.num_pairs + options.num_others,
    )
    found = scores_after_adapting(
      network, variables, source, num_pairs=options.num_pairs
    )
  except (ImportError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  folder = pathlib.Path(options.output)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'analysis.json').write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
  console.run(main)
