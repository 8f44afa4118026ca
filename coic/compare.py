"""Compares CoIC with its parts on equal terms.

`python -m coic.compare --config FILE --workdir FOLDER --methods
baseline,modulated,coic --seeds 0,1` trains a network for each method and seed:
the plain network, one that is modulated but whose encoder learns from the
restoration alone, and all of CoIC. All see the same pictures in the same order
for the same number of steps. The folder gets a table, a figure and all runs; a
stopped comparison goes on where it was.
"""

import dataclasses
import json
import logging
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import flags

from coic import evaluate, experiment, train
from common import commands, figures

_LOGGER = logging.getLogger(__name__)

# What differs from the config, and how tables call it.
METHODS: Mapping[str, tuple[Mapping[str, Any], str]] = {
  'baseline': ({'model.modulated': False}, 'plain network'),
  'modulated': ({'contrast.weight': 0.0}, 'CoI-M, no contrastive loss'),
  'coic': ({}, 'CoIC'),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One method.

  Attributes:
    method: one of `METHODS`.
    scores: of each seed at the last step, see `train.train_and_evaluate`.
  """

  method: str
  scores: list[dict[str, float]]


def compare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  methods: Sequence[str],
  seeds: Sequence[int],
) -> list[Row]:
  """Trains every combination, and collects the scores.

  Args:
    config: of one run; seed, modulation and contrastive weight are replaced.
    workdir: gets `METHOD_seedN/`, `comparison.json`, `table.md` and
      `pictures.png`.
    methods: names in `METHODS`.
    seeds: at least one.

  Returns:
    A row for each method.

  Raises:
    ValueError: unknown method, or as `train.train_and_evaluate`.
  """
  if unknown := [name for name in methods if name not in METHODS]:
    raise ValueError(f'method {unknown[0]!r} must be one of {[*METHODS]}')
  workdir = pathlib.Path(workdir)
  rows: list[Row] = []
  folders: dict[str, pathlib.Path] = {}
  for method in methods:
    changes, title = METHODS[method]
    scores = []
    for seed in seeds:
      run = config.copy_and_resolve_references()
      run.update_from_flattened_dict({'seed': seed, **changes})
      folder = workdir / f'{method}_seed{seed}'
      _LOGGER.info('%s, seed %d', title, seed)
      scores.append(train.train_and_evaluate(run, folder))
      folders.setdefault(title, folder)
    rows.append(Row(method, scores))
  (workdir / 'comparison.json').write_text(
    json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + '\n'
  )
  written = table(rows, config.eval.protocols[0])
  (workdir / 'table.md').write_text(written + '\n')
  plot(config, folders, workdir / 'pictures.png')
  return rows


def table(rows: Sequence[Row], protocol: str) -> str:
  """PSNR (dB, mean and sample deviation over seeds) and SSIM, in Markdown.

  Args:
    rows: from `compare`.
    protocol: of the scores.

  Returns:
    One column for each test set, and one for their mean.
  """
  ending = f'_{protocol}_psnr'
  first = rows[0].scores[0]
  sets = [key.removesuffix(ending) for key in first if key.endswith(ending)]

  def cell(scores: Sequence[dict[str, float]], key: str) -> str:
    psnr = [score[f'{key}psnr'] for score in scores]
    ssim = statistics.mean(score[f'{key}ssim'] for score in scores)
    spread = f' ± {statistics.stdev(psnr):.2f}' if len(psnr) > 1 else ''
    return f' {statistics.mean(psnr):.2f}{spread} / {ssim:.4f} |'

  lines = [
    f'| {protocol} | seeds |' + ''.join(f' {name} |' for name in sets),
    '|---|---|' + '---|' * len(sets),
    '| rainy images | |'
    + ''.join(cell([first], f'{name}_{protocol}_input_') for name in sets),
  ]
  lines += [
    f'| {METHODS[row.method][1]} | {len(row.scores)} |'
    + ''.join(cell(row.scores, f'{name}_{protocol}_') for name in sets)
    for row in rows
  ]
  return '\n'.join(lines)


def plot(
  config: ml_collections.ConfigDict,
  folders: dict[str, pathlib.Path],
  path: pathlib.Path,
  side: int = 256,
) -> None:
  """Draws the middle of the first test image: before, after, and clean.

  Args:
    config: of the runs.
    folders: of a run for each title.
    path: of the .png.
    side: of the part shown, in pixels.
  """
  source = next(iter(experiment.open_sets(config.data.test_sets).values()))
  pair = source[0]
  image = np.asarray(pair['input'] / 255, np.float32)
  pictures = {'rainy': image}
  for title, folder in folders.items():
    pictures[title] = evaluate.restore(evaluate.load_derainer(folder), image)
  pictures['clean'] = pair['target']
  figures.save_side_by_side(
    {title: figures.middle(x, side) for title, x in pictures.items()}, path
  )


def main() -> None:
  """Runs `compare` on the flags and prints the table."""
  config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
  seeds = [int(seed) for seed in flags.FLAGS.seeds]
  print(
    f'CoIC: {config.train.num_steps} steps of {config.model.name} on '
    f'{", ".join(config.data.train_sets)}, for each of '
    f'{", ".join(flags.FLAGS.methods)}'
  )
  rows = compare(config, workdir, methods=flags.FLAGS.methods, seeds=seeds)
  print(table(rows, config.eval.protocols[0]))
  print(f'pictures: {workdir}/pictures.png')


if __name__ == '__main__':
  commands.define_config_flags('comparison')
  flags.DEFINE_list('methods', [*METHODS], 'Some of the methods above.')
  flags.DEFINE_list('seeds', '0', 'Seeds, one run each.')
  commands.run(main)
