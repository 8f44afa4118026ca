"""Figures of results, the same to the byte for the same version of matplotlib.

Text stays text and colours are vectors, so nothing depends on the machine.
"""

import io
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from results.experiment import Experiment, Metric
from results.rows import Results, runs_of

_TEACHER = '/teacher'  # Ending of its rows: a level, it has other steps.


def draw(experiment: Experiment, results: Results) -> str | None:
  """The figure of an experiment: curves, CKA, or the map of an embedding.

  Args:
    experiment: of the figure.
    results: by experiment, those there are.

  Returns:
    SVG; None where there is nothing to draw.
  """
  curves = _curves(experiment, results)
  if any(len(of_row[0]) > 1 for of_row in curves.values()):
    levels = {
      row.title: statistics.fmean(
        run['scores'][experiment.metrics[0].name]['last'] for run in runs
      )
      for row in experiment.rows
      if row.key.endswith(_TEACHER)
      and (runs := runs_of(row, experiment, results))
    }
    metric = experiment.metrics[0]
    return _svg(lambda canvas: _draw_curves(canvas, curves, levels, metric))
  analysis = results.get(experiment.name, {}).get('analysis', {})
  similar = {label: x for label, x in analysis.items() if 'before' in x}
  if similar:
    return _svg(lambda canvas: _draw_cka(canvas, similar))
  maps = [x['map'] for x in analysis.values() if 'map' in x]
  if maps:
    return _svg(lambda canvas: _draw_map(canvas, maps[0]))
  return None


def version_of(svg: str) -> str | None:
  """The version of matplotlib that has drawn a figure."""
  found = re.search(r'Matplotlib v([\w.+]+)', svg)
  return found[1] if found else None


def installed_version() -> str:
  """The version of matplotlib that `draw` uses."""
  import matplotlib  # Slow to import, and not for tables.

  return matplotlib.__version__


def _svg(paint: Callable[[Any], None]) -> str:
  import matplotlib
  from matplotlib import figure

  with matplotlib.rc_context():
    matplotlib.rcdefaults()  # Whatever the reader has set up.
    matplotlib.rcParams['svg.hashsalt'] = 'results'
    matplotlib.rcParams['svg.fonttype'] = 'none'
    canvas = figure.Figure(layout='constrained')
    paint(canvas)
    file = io.StringIO()
    canvas.savefig(file, format='svg', metadata={'Date': None})
  lines = file.getvalue().splitlines()
  return '\n'.join(line.rstrip() for line in lines) + '\n'


def _curves(
  experiment: Experiment, results: Results
) -> dict[str, list[list[tuple[int, float]]]]:
  """By title of the row, the curve of the headline of each seed."""
  found = {}
  for row in experiment.rows:
    runs = runs_of(row, experiment, results)
    if runs and not row.key.endswith(_TEACHER):
      name = experiment.metrics[0].name
      found[row.title] = [run['scores'][name]['curve'] for run in runs]
  return found


def _draw_curves(
  canvas: Any,
  curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
  levels: Mapping[str, float],
  metric: Metric,
) -> None:
  """Mean over the seeds, and their range."""
  canvas.set_size_inches(7.5, 4)
  axes = canvas.add_subplot()
  for title, of_seeds in curves.items():
    steps = [step for step, _ in of_seeds[0]]
    values = [[metric.scale * value for _, value in x] for x in of_seeds]
    columns = list(zip(*values, strict=True))
    means = [statistics.fmean(column) for column in columns]
    (line,) = axes.plot(steps, means, marker='.', label=title)
    if len(of_seeds) > 1:
      low, high = ([f(column) for column in columns] for f in (min, max))
      axes.fill_between(
        steps, low, high, alpha=0.15, color=line.get_color(), linewidth=0
      )
  for title, level in levels.items():
    axes.axhline(
      metric.scale * level, color='gray', linestyle='--', label=title
    )
  axes.set(xlabel='step', ylabel=metric.title)
  axes.grid(alpha=0.3)
  canvas.legend(loc='outside right upper', fontsize='small')


def _draw_cka(canvas: Any, analyses: Mapping[str, Mapping[str, Any]]) -> None:
  """Stages of the student (down) and of the teacher, before and after."""
  canvas.set_size_inches(8, 3.2 * len(analyses))
  grid = canvas.subplots(len(analyses), 2, squeeze=False)
  for row, (label, analysis) in zip(grid, analyses.items(), strict=True):
    for axes, when in zip(row, ('before', 'after'), strict=True):
      cka = analysis[when]['cka']
      names = [*next(iter(cka.values()))]
      matrix = [[of_own[name] for name in names] for of_own in cka.values()]
      cells = axes.pcolormesh(matrix, vmin=0, vmax=1, edgecolor='face')
      axes.invert_yaxis()
      axes.set_xticks([i + 0.5 for i in range(len(names))], names, rotation=30)
      axes.set_yticks([i + 0.5 for i in range(len(cka))], [*cka])
      axes.set_title(f'{label}, {when} training')
      axes.set(xlabel='teacher', ylabel='student')
  bar = canvas.colorbar(cells, ax=grid, label='linear CKA')
  bar.solids.set(edgecolor='face', rasterized=False)


def _draw_map(canvas: Any, found: Mapping[str, Any]) -> None:
  """Pictures in the plane, coloured by their set."""
  canvas.set_size_inches(7, 4.5)
  axes = canvas.add_subplot()
  for name, points in found['points'].items():
    axes.scatter(*zip(*points, strict=True), s=16, label=name)
  axes.set_title(found['method'])
  axes.grid(alpha=0.3)
  canvas.legend(loc='outside right upper', fontsize='small')
