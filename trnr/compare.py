"""Compares ways of sampling on equal terms.

`python -m trnr.compare --config FILE --workdir FOLDER --samplings rcs,rbs1
--seeds 0,1 --num_images 10,20` trains a network for each number of training
images, sampling and seed. All see the same images and, where the config's batch
size is 2 x tasks x clusters, equally many patches a step. The folder gets a
table, a figure and all runs; a stopped comparison goes on where it was.
"""

import dataclasses
import json
import logging
import pathlib
import statistics
from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import flags

from common import commands, figures
from trnr import evaluate, input_pipeline, train

_LOGGER = logging.getLogger(__name__)

_NAMES = {
  'rcs': 'TRNR (tasks from clusters)',
  'rps': 'RPS (random patches)',
  'rbs1': 'RBS-I (crops of distinct images)',
  'rbs2': 'RBS-II (crops, in epochs)',
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One way of training.

  Attributes:
    sampling: value of `config.sampling.name`.
    num_images: pictures to learn from; 0 for all.
    scores: of each seed at the last step, as `train.train_and_evaluate` names
      them.
  """

  sampling: str
  num_images: int
  scores: list[dict[str, float]]


def compare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  samplings: Sequence[str],
  seeds: Sequence[int],
  num_images: Sequence[int] = (0,),
) -> list[Row]:
  """Trains every combination, and collects the scores.

  Args:
    config: of one run; sampling, seed and number of images are replaced.
    workdir: gets the runs, `patches_N.npz`, `comparison.json`, `table.md` and
      `pictures.png`.
    samplings: values of `config.sampling.name`.
    seeds: at least one.
    num_images: numbers of training images; 0 takes all.

  Returns:
    A row for each number of images and sampling.

  Raises:
    ValueError: a sampling is unknown, or as `train.train_and_evaluate`.
  """
  workdir = pathlib.Path(workdir)
  rows, runs = [], []
  if unknown := sorted({*samplings} - {*_NAMES}):
    raise ValueError(f'sampling {unknown[0]!r} must be one of {[*_NAMES]}')
  for count in num_images:
    patch_file = workdir / f'patches_{count}.npz'
    for sampling in samplings:
      scores = []
      for seed in seeds:
        run = config.copy_and_resolve_references()
        run.update_from_flattened_dict(
          {
            'seed': seed,
            'sampling.name': sampling,
            'data.num_images': count,
          }
        )
        if sampling in input_pipeline.FROM_PATCHES:
          # One analysis for all runs that learn from the same pictures.
          run.patches.path = str(patch_file)
        folder = workdir / f'{sampling}_{count}_seed{seed}'
        _LOGGER.info(
          '%s, %s images, seed %d: %d steps',
          _NAMES[sampling],
          count or 'all',
          seed,
          run.train.num_steps,
        )
        scores.append(train.train_and_evaluate(run, folder))
        runs.append((f'{sampling} {count or ""}', folder))
      rows.append(Row(sampling, count, scores))
  (workdir / 'comparison.json').write_text(
    json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + '\n'
  )
  (workdir / 'table.md').write_text(table(rows) + '\n')
  plot(config, runs[:: len(seeds)], workdir / 'pictures.png')
  return rows


def table(rows: Sequence[Row]) -> str:
  """PSNR (mean and sample deviation over seeds) and SSIM, in Markdown."""
  first = rows[0].scores[0]
  protocols = [
    name.removesuffix('_input_psnr')
    for name in first
    if name.endswith('_input_psnr')
  ]
  columns = ''.join(f' {p}: PSNR, dB | deviation | SSIM |' for p in protocols)
  lines = [
    f'| images | training | seeds |{columns}',
    '|---|---|---|' + '---|---|---|' * len(protocols),
  ]
  degraded = ''.join(
    f' {first[f"{p}_input_psnr"]:.2f} | | {first[f"{p}_input_ssim"]:.4f} |'
    for p in protocols
  )
  lines.append(f'| | degraded images | |{degraded}')
  for row in rows:
    cells = ''
    for protocol in protocols:
      psnr = [scores[f'{protocol}_psnr'] for scores in row.scores]
      ssim = [scores[f'{protocol}_ssim'] for scores in row.scores]
      spread = f'{statistics.stdev(psnr):.2f}' if len(psnr) > 1 else ''
      cells += (
        f' {statistics.mean(psnr):.2f} | {spread} | {statistics.mean(ssim):.4f}'
        ' |'
      )
    lines.append(
      f'| {row.num_images or "all"} | {_NAMES[row.sampling]} | '
      f'{len(row.scores)} |{cells}'
    )
  return '\n'.join(lines)


def plot(
  config: ml_collections.ConfigDict,
  runs: Sequence[tuple[str, pathlib.Path]],
  path: pathlib.Path,
  side: int = 256,
) -> None:
  """Draws the middle of a test picture: before, after, and clean.

  Args:
    config: of the runs.
    runs: title and folder of each.
    path: of the .png.
    side: of the part shown, in pixels.
  """
  _, test_pairs = input_pipeline.open_data(**config.data)
  sigma = config.eval.sigmas[0] if config.eval.sigmas else None
  _, degraded, clean = next(evaluate.pictures(test_pairs, sigma))
  shown = {'degraded': degraded}
  for title, folder in runs:
    network, variables = evaluate.load_network(folder)
    restored = evaluate.restore(
      network, variables, degraded, evaluate.level_of(network, sigma)
    )
    shown[title] = np.asarray(restored)
  shown['clean'] = clean
  figures.save_side_by_side(
    {title: figures.middle(x[0], side) for title, x in shown.items()}, path
  )


def main() -> None:
  """Runs `compare` on the flags and prints the table."""
  samplings = flags.FLAGS.samplings
  seeds = [int(seed) for seed in flags.FLAGS.seeds]
  num_images = [int(count) for count in flags.FLAGS.num_images]
  print(
    f'TRNR: trains {len(samplings) * len(seeds) * len(num_images)} networks '
    f'({", ".join(samplings)}) for {flags.FLAGS.config.train.num_steps} steps '
    'each, and scores them on the test pictures.',
    flush=True,
  )
  rows = compare(
    flags.FLAGS.config,
    flags.FLAGS.workdir,
    samplings=samplings,
    seeds=seeds,
    num_images=num_images,
  )
  print(table(rows))
  print(f'before and after: {flags.FLAGS.workdir}/pictures.png')


if __name__ == '__main__':
  commands.define_config_flags('comparison')
  flags.DEFINE_list('samplings', 'rcs,rbs1,rps', 'Values of sampling.name.')
  flags.DEFINE_list('seeds', '0', 'Seeds, one run each.')
  flags.DEFINE_list('num_images', '0', 'Numbers of training images; 0 is all.')
  commands.run(main)
