"""Compares methods on equal terms, over several seeds.

`python -m rsdjax.compare --config FILE --workdir FOLDER --methods none,rsd
--seeds 0,1,2` trains one teacher and then a student per method and seed. For
one seed, every method has the same initial student, data order and number of
steps. The folder gets a table, a figure and all runs; a stopped comparison
goes on where it was.
"""

import dataclasses
import json
import logging
import pathlib
import statistics
from collections.abc import Sequence

import ml_collections
from absl import flags

from common import commands, distributed
from common.data import datasets
from common.metric_writers import read_metrics
from rsdjax import evaluate, experiment, train

_LOGGER = logging.getLogger(__name__)

_SCORE = 'test_top1'


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What the runs of a comparison scored.

  Attributes:
    teacher: test top-1 of the teacher at its last step, a fraction.
    curves: by method, one list of (step, test top-1) per seed.
  """

  teacher: float
  curves: dict[str, list[list[tuple[int, float]]]]

  def last(self, method: str) -> list[float]:
    """Score of each seed at the last step."""
    return [curve[-1][1] for curve in self.curves[method]]

  def table(self) -> str:
    """Mean and sample deviation over seeds, in Markdown."""
    lines = [
      '| method | top-1 at the last step, % | deviation | seeds |',
      '|---|---|---|---|',
      f'| teacher | {100 * self.teacher:.2f} | | 1 |',
    ]
    for method in self.curves:
      last = [100 * score for score in self.last(method)]
      spread = f'{statistics.stdev(last):.2f}' if len(last) > 1 else ''
      name = 'scratch' if method == 'none' else method
      lines.append(
        f'| {name} | {statistics.mean(last):.2f} | {spread} | {len(last)} |'
      )
    return '\n'.join(lines)


def compare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  methods: Sequence[str],
  seeds: Sequence[int],
) -> Comparison:
  """Runs every method with every seed, and collects the scores.

  Args:
    config: of one run; its method and seed are replaced. Its teacher is
      trained once, with the config's own seed, unless it names a checkpoint.
    workdir: gets `teacher/`, `METHOD_seedN/`, `comparison.json`, `table.md` and
      `curves.png`.
    methods: values of `config.distiller.name`.
    seeds: at least one.

  Returns:
    The scores.

  Raises:
    ValueError: as `train.train_and_evaluate`.
  """
  workdir = pathlib.Path(workdir)
  checkpoint = config.teacher.checkpoint
  if not checkpoint:
    checkpoint = str(train.train_teacher(config, workdir))
  teacher = _teacher_score(config, checkpoint)
  curves: dict[str, list[list[tuple[int, float]]]] = {m: [] for m in methods}
  for seed in seeds:
    for method in methods:
      run = config.copy_and_resolve_references()
      run.update_from_flattened_dict(
        {
          'seed': seed,
          'distiller.name': method,
          'teacher.checkpoint': checkpoint,
        }
      )
      folder = workdir / f'{method}_seed{seed}'
      _LOGGER.info('%s with seed %d', method, seed)
      train.train_and_evaluate(run, folder)
      curve = [
        (int(line['step']), line[_SCORE])
        for line in read_metrics(folder)
        if _SCORE in line
      ]
      curves[method].append(curve)
  comparison = Comparison(teacher, curves)
  (workdir / 'comparison.json').write_text(
    json.dumps(dataclasses.asdict(comparison), indent=2) + '\n'
  )
  (workdir / 'table.md').write_text(comparison.table() + '\n')
  plot(comparison, workdir / 'curves.png')
  return comparison


def _teacher_score(
  config: ml_collections.ConfigDict, path: str | pathlib.Path
) -> float:
  """Test top-1, scored here where the file does not say it."""
  network, variables, scores = experiment.load_network(path)
  if _SCORE not in scores:
    score = evaluate.make_scorer(
      {'test': network},
      datasets.classification(**config.data),
      distributed.make_mesh(),
      batch_size=config.eval.batch_size,
    )
    scores = score({'test': variables})
  return scores[_SCORE]


def plot(comparison: Comparison, path: pathlib.Path) -> None:
  """Draws test top-1 over steps: the mean of the seeds, and their range."""
  from matplotlib import figure  # Half a second of import, only for figures.

  canvas = figure.Figure(figsize=(6, 4), layout='constrained')
  axes = canvas.add_subplot()
  for method, curves in comparison.curves.items():
    steps = [step for step, _ in curves[0]]
    scores = [[100 * score for _, score in curve] for curve in curves]
    columns = list(zip(*scores, strict=True))
    (line,) = axes.plot(
      steps,
      [statistics.mean(column) for column in columns],
      label='scratch' if method == 'none' else method,
    )
    axes.fill_between(
      steps,
      [min(column) for column in columns],
      [max(column) for column in columns],
      alpha=0.2,
      color=line.get_color(),
    )
  axes.axhline(
    100 * comparison.teacher, color='gray', linestyle='--', label='teacher'
  )
  axes.set(xlabel='step', ylabel='test top-1, %')
  axes.grid(alpha=0.3)
  axes.legend()
  canvas.savefig(path, dpi=150)


def main() -> None:
  """Runs `compare` on the flags and prints the table."""
  methods = flags.FLAGS.methods
  seeds = [int(seed) for seed in flags.FLAGS.seeds]
  print(
    f'RSD: trains a teacher, unless one is named, and {len(methods)} x '
    f'{len(seeds)} students ({", ".join(methods)}) for '
    f'{flags.FLAGS.config.train.num_steps} steps each.',
    flush=True,
  )
  comparison = compare(
    flags.FLAGS.config, flags.FLAGS.workdir, methods=methods, seeds=seeds
  )
  print(comparison.table())
  print(f'curves: {flags.FLAGS.workdir}/curves.png')


if __name__ == '__main__':
  commands.define_config_flags('comparison')
  flags.DEFINE_list('methods', 'none,kd,rsd', 'Values of distiller.name.')
  flags.DEFINE_list('seeds', '0,1,2', 'Seeds, one run each per method.')
  commands.run(main)
