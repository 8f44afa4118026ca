"""Renders the results into the README and the docs, and draws their figures.

  python -m results.tables          # after `python -m results.run`
  python -m results.tables --check  # exit code 1 if a page is not theirs

A page shows an experiment between the marks `<!-- results: NAME -->` and
`<!-- /results -->`; with `table` behind the name, its tables alone. Figures are
`docs/images/results_NAME.svg`; the check leaves out those of another version of
matplotlib than the one that is installed.
"""

import argparse
import os
import pathlib
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from results import figures, rows
from results.experiment import Experiment, Metric
from results.experiments import EXPERIMENTS
from results.rows import Results

ROOT = pathlib.Path(__file__).resolve().parents[1]
_IMAGES = pathlib.Path('docs', 'images')
_BEGIN, _END = '<!-- results: ', '<!-- /results -->'
_BLOCK = re.compile(
  r'<!-- results: (\w+)( table)? -->\n(.*?)<!-- /results -->', re.S
)
_NOT_RUN = 'not run'


def render(
  experiment: Experiment,
  results: Results,
  *,
  only_tables: bool = False,
  to_root: str = '',
) -> str:
  """Markdown of an experiment.

  Args:
    experiment: to show, run or not.
    results: by experiment, those there are.
    only_tables: without question and figure.
    to_root: from the page to the root of the repository, '' or '../'.

  Returns:
    Paragraphs: question and protocol, tables, figure, and where it was run.
  """
  parts = [] if only_tables else [experiment.question, experiment.protocol]
  parts += tables(experiment, results)
  result = results.get(experiment.name)
  if result and not only_tables and figures.draw(experiment, results):
    path = figure_path(experiment).as_posix()
    parts.append(f'![{experiment.title}]({to_root}{path})')
  if result:
    parts.append(
      f'{provenance(result)} [All numbers]({to_root}results/'
      f'{experiment.name}/result.json).'
    )
  return '\n\n'.join(parts)


def tables(experiment: Experiment, results: Results) -> list[str]:
  """Tables of runs, of pictures and of an analysis, as far as there are any.

  What was not run has rows that say so.
  """
  found = []
  if experiment.rows:
    found.append(_table_of_runs(experiment, results))
  if experiment.evaluations:
    found.append(_table_of_pictures(experiment, results))
  if experiment.values:
    found.append(_table_of_values(experiment, results))
  if not found:
    found.append([['', '']])
  width = len(found[0][0])
  found[0] += [
    _filled([f'{title} ({reason})', _NOT_RUN], width)
    for title, reason in experiment.not_run
  ]
  return [_markdown(cells) for cells in found]


def provenance(result: Mapping[str, Any]) -> str:
  """Where a result was made, and in what time."""
  commands = result['commands'].values()
  seconds = sum(command['seconds'] for command in commands)
  places = [x for command in commands for x in command['environments']]
  revisions = [
    f'`{(place["revision"] or "unknown")[:12]}`'
    + ('' if place['clean'] else ' with changes')
    for place in places
  ]
  machines = [
    f'{x["cores"]} core{"s" if x["cores"] > 1 else ""} of {x["processor"]}'
    for x in places
  ]
  versions = [
    ', '.join(f'{name} {number}' for name, number in x['versions'].items())
    for x in places
  ]
  seeds = sorted({run['seed'] for run in result['runs']} - {None})
  said = f'Seeds {", ".join(map(str, seeds))}; ' if len(seeds) > 1 else ''
  revision = ', '.join(dict.fromkeys(revisions))
  machine, version = (
    ' and '.join(dict.fromkeys(x)) for x in (machines, versions)
  )
  return (
    f'{said}{_minutes(seconds)} minutes on {machine}; revision {revision}; '
    f'{version}.'
  )


def figure_path(experiment: Experiment) -> pathlib.Path:
  """Path of an experiment's figure, from the root of the repository."""
  return _IMAGES / f'results_{experiment.name}.svg'


def with_tables(
  page: str,
  experiments: Sequence[Experiment],
  results: Results,
  *,
  to_root: str = '',
) -> str:
  """A page with all that is between marks made anew.

  Args:
    page: Markdown.
    experiments: all there are.
    results: see `render`.
    to_root: see `render`.

  Raises:
    ValueError: marks do not pair, or name no experiment.
  """
  by_name = {experiment.name: experiment for experiment in experiments}

  def made(match: re.Match[str]) -> str:
    name, only_tables, _ = match.groups()
    if name not in by_name:
      raise ValueError(f'there is no experiment {name!r} to show')
    text = render(
      by_name[name],
      results,
      only_tables=only_tables is not None,
      to_root=to_root,
    )
    return f'{_BEGIN}{name}{only_tables or ""} -->\n{text}\n{_END}'

  blocks = [match[3] for match in _BLOCK.finditer(page)]
  counts = {page.count(_BEGIN), page.count(_END), len(blocks)}
  if len(counts) > 1 or any(_BEGIN in block for block in blocks):
    raise ValueError(f'marks {_BEGIN}NAME --> and {_END} do not pair')
  return _BLOCK.sub(made, page)


def made_files(
  root: pathlib.Path, experiments: Sequence[Experiment]
) -> dict[pathlib.Path, str]:
  """All pages and figures, as they should be.

  Args:
    root: of the repository.
    experiments: all there are.

  Returns:
    Text by path.

  Raises:
    ValueError: a result or the marks of a page are wrong; names the file.
  """
  results = rows.read(root / 'results', experiments)
  made = {}
  for path in (*root.glob('*.md'), *(root / 'docs').glob('*.md')):
    to_root = os.path.relpath(root, path.parent) + '/'
    try:
      made[path] = with_tables(
        path.read_text(),
        experiments,
        results,
        to_root='' if to_root == './' else to_root,
      )
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error
  for experiment in experiments:
    svg = figures.draw(experiment, results)
    if svg and experiment.name in results:
      made[root / figure_path(experiment)] = svg
  return made


def is_stale(path: pathlib.Path, made: str) -> bool:
  """Whether a file is not what it should be."""
  if not path.exists():
    return True
  old = path.read_text()
  drawn_by = figures.version_of(old) if path.suffix == '.svg' else None
  if drawn_by and drawn_by != figures.installed_version():
    return False  # Nothing can be said.
  return old != made


def main(
  arguments: Sequence[str] | None = None,
  *,
  root: pathlib.Path = ROOT,
  experiments: Sequence[Experiment] = EXPERIMENTS,
) -> None:
  """Runs the command; other roots and experiments are for tests."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--check', action='store_true', help='write nothing')
  options = parser.parse_args(arguments)
  try:
    made = made_files(root, experiments)
  except ValueError as error:
    sys.exit(f'{error}')
  left = [x for x in (root / _IMAGES).glob('results_*.svg') if x not in made]
  if not options.check:
    for path, text in made.items():
      path.parent.mkdir(parents=True, exist_ok=True)
      if not path.exists() or path.read_text() != text:
        path.write_text(text)
    for path in left:
      path.unlink()
    return
  stale = [path for path, text in made.items() if is_stale(path, text)]
  if stale or left:
    names = ', '.join(str(x.relative_to(root)) for x in (*stale, *left))
    sys.exit(f'{names}: not as the results are; `make tables` renders them')


def _table_of_runs(experiment: Experiment, results: Results) -> list[list[str]]:
  first, *_ = experiment.metrics
  table = [
    [
      '',
      'seeds',
      *(metric.title for metric in experiment.metrics),
      f'best {first.title}',
      'at step',
      'minutes',
    ]
  ]
  width = len(table[0])
  degraded = _degraded(experiment, results)
  if any(degraded):
    table.append(_filled(['degraded pictures', '', *degraded], width))
  for row in experiment.rows:
    runs = rows.runs_of(row, experiment, results)
    if not runs:
      table.append(_filled([row.title, _NOT_RUN], width))
      continue
    best = [run['scores'][first.name] for run in runs]
    steps = sorted({x['best_step'] for x in best})
    table.append(
      [
        row.title,
        str(len(runs)),
        *(
          _mean([run['scores'][metric.name]['last'] for run in runs], metric)
          for metric in experiment.metrics
        ),
        _mean([x['best'] for x in best], first),
        str(steps[0]) if len(steps) == 1 else f'{steps[0]}..{steps[-1]}',
        _minutes(statistics.fmean(run['training_seconds'] for run in runs)),
      ]
    )
  return table


def _degraded(experiment: Experiment, results: Results) -> list[str]:
  """Scores of the pictures before restoration, the same for all runs."""
  runs = [
    run
    for row in experiment.rows
    for run in rows.runs_of(row, experiment, results)
  ]
  found = []
  for metric in experiment.metrics:
    stem, _, measure = metric.name.rpartition('_')
    score = runs[0]['scores'].get(f'{stem}_input_{measure}') if runs else None
    found.append(_mean([score['last']], metric) if score else '')
  return found


def _table_of_pictures(
  experiment: Experiment, results: Results
) -> list[list[str]]:
  images = results.get(experiment.name, {}).get('images', {})
  protocols = [*dict.fromkeys(x for found in images.values() for x in found)]
  referred = any(x.reference or x.remark for x in experiment.evaluations)
  table = [
    [
      'PSNR, dB / SSIM',
      'pictures',
      *(f'{x}, {of}' for x in protocols for of in ('input', 'restored')),
      *(['reference'] if referred else []),
    ]
  ]
  for row in experiment.evaluations:
    found = images.get(row.key)
    if found is None:
      table.append(_filled([row.title, _NOT_RUN], len(table[0])))
      continue
    means = {
      protocol: [statistics.fmean(x) for x in list(zip(*of, strict=True))[1:]]
      for protocol, of in found.items()
    }
    cells = [row.title, str(len(next(iter(found.values()))))]
    for protocol in protocols:
      psnr, ssim, *of_input = means[protocol]
      cells += [f'{of_input[0]:.3f} / {of_input[1]:.4f}']
      cells += [f'{psnr:.3f} / {ssim:.4f}']
    if referred:
      cells.append(row.remark)
    if row.reference:
      protocol, psnr, ssim = row.reference
      gain = means[protocol][0] - psnr
      said = f'{protocol}: {psnr:.2f} / {ssim:.4f}; ours {gain:+.3f} dB'
      cells[-1] = f'{said}; {row.remark}' if row.remark else said
    table.append(cells)
  return table


def _table_of_values(
  experiment: Experiment, results: Results
) -> list[list[str]]:
  table = [['', 'value']]
  for row in experiment.values:
    found: Any = results.get(experiment.name, {}).get('analysis', {})
    if row.path[0] not in found:
      table.append([row.title, _NOT_RUN])
      continue
    for key in row.path:
      found = found[key]
    table.append([row.title, f'{found:.{row.digits}f}'])
  return table


def _mean(values: Sequence[float], metric: Metric) -> str:
  scaled = [metric.scale * value for value in values]
  text = f'{statistics.fmean(scaled):.{metric.digits}f}'
  if len(scaled) > 1:
    text += f' ± {statistics.stdev(scaled):.{metric.digits}f}'
  return text


def _minutes(seconds: float) -> str:
  return f'{seconds / 60:.1f}'


def _filled(cells: Sequence[str], width: int) -> list[str]:
  return [*cells, *[''] * (width - len(cells))]


def _markdown(table: Sequence[Sequence[str]]) -> str:
  lines = [
    '| ' + ' | '.join(x.replace('|', r'\|') for x in cells) + ' |'
    for cells in table
  ]
  return '\n'.join([lines[0], '|' + '---|' * len(table[0]), *lines[1:]])


if __name__ == '__main__':
  main()
