"""The page of a report."""

import math
import pathlib
from collections.abc import Mapping, Sequence

from common.report import curves, pictures, tables
from common.report.contents import Curve, Part, Run, split_score
from common.report.style import SCRIPT, STYLE
from common.report.text import escape, plural

MOST_FIGURES = 40  # Of one part.
_MOST_STEPS = 8  # Of the pictures of a run.
# What the columns of pictures are; see `common.pictures`.
_COLUMNS = {'restored': 'input, restored, target'}
_LAST = ('_norm', '_per_second')  # Metrics that say least.
_WIDE = 1.8  # Width by height from which a picture has a row of its own.
_LEAST_WIDTH = 320  # Smaller pictures are enlarged, in whole pixels.
# The browser itself refuses whatever is not in the file.
_POLICY = (
  "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
  "script-src 'unsafe-inline'"
)


def page(parts: Sequence[Part]) -> str:
  """Writes the whole page.

  Args:
    parts: at least one.

  Returns:
    HTML that refers to nothing outside itself.

  Raises:
    OSError: a picture cannot be read.
    ValueError: a picture is damaged.
  """
  contents, entries = [], []
  for number, part in enumerate(parts):
    sections = {k: v for k, v in _sections(part).items() if v}
    anchors = {f'p{number}-{i}': title for i, title in enumerate(sections)}
    heading = f'<h2>{escape(part.name)}</h2><p class="facts">{_facts(part)}</p>'
    written = ''.join(
      f'<section id="{anchor}"><h3>{title}</h3>{content}</section>'
      for anchor, (title, content) in zip(
        anchors, sections.items(), strict=True
      )
    )
    contents.append(
      f'<div class="part" id="p{number}">{heading if len(parts) > 1 else ""}'
      f'{written}</div>'
    )
    links = ''.join(
      f'<li><a href="#{anchor}">{title}</a></li>'
      for anchor, title in anchors.items()
    )
    entries.append(
      f'<li><a class="name" href="#p{number}">{escape(part.name)}</a>'
      f'<ul>{links}</ul></li>'
    )
  names = ', '.join(escape(part.name) for part in parts)
  # A part alone has its name on top of the page.
  facts = plural(sum(len(part.runs) for part in parts), 'run')
  if len(parts) == 1:
    facts = _facts(parts[0])
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{names}: report</title>
<style>{STYLE}</style>
</head>
<body>
<div class="layout">
<header><h1>{names}</h1>
<p class="facts">{facts}</p></header>
<nav aria-label="Contents"><ul>{''.join(entries)}</ul></nav>
<main>{''.join(contents)}</main>
</div>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _facts(part: Part) -> str:
  """A line of numbers."""
  if not part.runs:
    return plural(len(part.figures), 'figure')
  facts = [
    plural(len(part.runs), 'run'),
    plural(max(run.last_step for run in part.runs), 'step'),
  ]
  sizes = sorted(
    {tables.count_parameters(r.shapes) for r in part.runs if r.shapes}
  )
  if sizes:
    ends = dict.fromkeys((sizes[0], sizes[-1]))
    facts.append(' to '.join(f'{x:,}' for x in ends) + ' parameters')
  unfinished = [run.name for run in part.runs if run.shapes is None]
  if unfinished:
    facts.append(f'not at its end: {escape(", ".join(unfinished))}')
  return ' &middot; '.join(facts)


def _sections(part: Part) -> dict[str, str]:
  """Contents by title; '' where there is none."""
  runs = part.runs
  return {
    'Comparison': tables.markdown(part.table) if part.table else '',
    'Scores': tables.score_table(runs),
    'Before and after': _before_after(runs),
    'Curves': _curves(runs),
    'While training': _progress(runs),
    'Figures': _figures(part.figures),
    'Config': tables.config_tables(runs) if runs else '',
    'Parameters': tables.parameter_tables(runs),
  }


def _curves(runs: Sequence[Run]) -> str:
  """All runs in one plot for each metric; runs of a method have one colour."""
  styles = {name: i for i, name in enumerate(tables.by_method(runs))}
  legend = ''.join(
    f'<button type="button" class="{curves.style_class(style)}" '
    f'data-style="{style}" aria-pressed="true">{escape(method)}</button>'
    for method, style in styles.items()
  )
  written = ''
  for title, found in (
    ('Evaluation', {run.name: run.scores for run in runs}),
    ('Training', {run.name: run.training for run in runs}),
  ):
    plots = _plots(found, {run.name: styles[run.method] for run in runs})
    if plots:
      written += f'<h4>{title}, over steps</h4><div class="plots">{plots}</div>'
  if not written:
    return ''
  if 'class="baseline"' in written:
    legend += '<span class="note">grey dashes: degraded input</span>'
  return f'<div class="legend">{legend}</div>{written}'


def _plots(
  found: Mapping[str, Mapping[str, Curve]], styles: Mapping[str, int]
) -> str:
  """Plots of metrics; of one evaluation alone the table tells all."""
  names = dict.fromkeys(name for curves in found.values() for name in curves)
  metrics = sorted(names, key=lambda name: name.endswith(_LAST))
  baselines = {}
  for name in metrics:
    score = split_score(name)
    if score is not None and score.of_input:
      values = [x[name][-1][1] for x in found.values() if name in x]
      if math.isfinite(values[0]):
        baselines[name.replace('_input_', '_')] = values[0]
  plots = []
  for name in metrics:
    score = split_score(name)
    lines = []
    for run, of_run in found.items():
      points = [x for x in of_run.get(name, ()) if math.isfinite(x[1])]
      if points:
        lines.append(curves.Line(run, styles[run], points))
    is_of_input = score is not None and score.of_input
    if not is_of_input and any(len(line.points) > 1 for line in lines):
      plots.append(curves.plot(name, lines, baselines.get(name)))
  return ''.join(plots)


def _before_after(runs: Sequence[Run]) -> str:
  """Pairs of pictures, one above the other, with a slider."""
  written = []
  for run in _first_of_methods(runs):
    for name, paths in run.before_after.items():
      before, after = map(pictures.embed, paths)
      if before[1:3] != after[1:3]:
        raise ValueError(f'{paths[0]} and {paths[1].name} differ in size')
      title = escape(name.replace('_', ' '))
      width, kind = _enlarged(before)
      wide = ' wide' if before.width > _WIDE * before.height else ''
      written.append(
        f'<figure class="card picture{wide}"><div class="wipe" '
        f'style="max-width:{width}px">'
        f'{_image(before, f"{title}, before", kind)}'
        f'{_image(after, f"{title}, after", f"after {kind}".strip())}'
        '<input type="range" min="0" max="100" step="0.5" value="50" '
        f'autocomplete="off" aria-label="{title}: where before ends and after '
        'begins"><span class="handle"></span><b>before</b><b>after</b></div>'
        f'<figcaption>{title}<span class="mono">{escape(run.name)}</span>'
        f'{_shrunk(before)}</figcaption></figure>'
      )
  return _grid(written)


def _progress(runs: Sequence[Run]) -> str:
  """Pictures by step, the last one first, with a slider over the steps."""
  written = []
  for run in _first_of_methods(runs):
    for name, files in run.progress.items():
      steps = _spread([*files], _MOST_STEPS)
      embedded = [pictures.embed(files[step]) for step in steps]
      title = escape(name.replace('_', ' '))
      images = ''.join(
        f'<div data-step="{step}"{" hidden" * (step != steps[-1])}>'
        f'{_image(picture, f"{title}, step {step}", _enlarged(picture)[1])}'
        '</div>'
        for step, picture in zip(steps, embedded, strict=True)
      )
      slider = (
        f'<input type="range" min="0" max="{len(steps) - 1}" '
        f'value="{len(steps) - 1}" autocomplete="off" '
        f'aria-label="{title}: step">'
      )
      columns = ''
      if name in _COLUMNS:
        columns = f'<span class="note">{_COLUMNS[name]}</span>'
      left_out = len(files) - len(steps)
      note = f'<span class="mono">{len(steps)} of {len(files)} steps</span>'
      written.append(
        f'<figure class="card picture steps wide">{images}'
        f'{slider if len(steps) > 1 else ""}<figcaption>{title}'
        f'<output>step {steps[-1]}</output>{columns}'
        f'<span class="mono">{escape(run.name)}</span>'
        f'{note if left_out else ""}{_shrunk(embedded[-1])}'
        '</figcaption></figure>'
      )
  return _grid(written)


def _figures(figures: Mapping[str, pathlib.Path]) -> str:
  """Figures that commands have written."""
  written = []
  for name, path in [*figures.items()][:MOST_FIGURES]:
    picture = pictures.embed(path)
    title = escape(path.stem.replace('_', ' '))
    wide = ' wide' if picture.width > _WIDE * picture.height else ''
    tall = ' tall' if picture.height > 2 * picture.width else ''
    written.append(
      f'<figure class="card picture{wide}"><div class="sheet{tall}">'
      f'{_image(picture, title)}</div><figcaption>{title}'
      f'<span class="mono">{escape(name)}</span>{_shrunk(picture)}'
      '</figcaption></figure>'
    )
  left_out = len(figures) - len(written)
  note = ''
  if left_out:
    note = f'<p class="note">{plural(left_out, "further figure")} left out.</p>'
  return _grid(written) + note


def _grid(figures: Sequence[str]) -> str:
  if not figures:
    return ''
  return f'<div class="pictures">{"".join(figures)}</div>'


def _first_of_methods(runs: Sequence[Run]) -> list[Run]:
  """Of each method the first seed: more pictures would say little."""
  return [own[0] for own in tables.by_method(runs).values()]


def _image(picture: pictures.Embedded, title: str, kind: str = '') -> str:
  size = ''
  if picture.width:
    width = picture.width
    if 'pixels' in kind:
      width, _ = _enlarged(picture)
    height = round(picture.height * width / picture.width)
    size = f' width="{width}" height="{height}"'
  classes = f' class="{kind}"' if kind else ''
  return f'<img src="{picture.url}" alt="{title}"{size}{classes}>'


def _enlarged(picture: pictures.Embedded) -> tuple[int, str]:
  """Width to show a picture at, and the class of those that are enlarged."""
  factor = -(-_LEAST_WIDTH // picture.width)
  return picture.width * factor, 'pixels' if factor > 1 else ''


def _shrunk(picture: pictures.Embedded) -> str:
  if picture.original is None:
    return ''
  before = ' &times; '.join(map(str, picture.original))
  return (
    f'<span class="mono">shrunk from {before} to {picture.width} &times; '
    f'{picture.height}</span>'
  )


def _spread(steps: Sequence[int], count: int) -> list[int]:
  """At most `count` of the steps, evenly spread, first and last among them."""
  if len(steps) <= count:
    return [*steps]
  return [steps[i * (len(steps) - 1) // (count - 1)] for i in range(count)]
