"""Tables of a report: scores, what comparisons wrote, configs, parameters."""

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

from common import scores
from common.report.contents import Run, split_score
from common.report.text import escape, plural

_NONE = '&ndash;'
_MEASURES = {'psnr': '.2f', 'ssim': '.4f'}


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Runs by their method, that is, by name without seed."""
  found: dict[str, list[Run]] = {}
  for run in runs:
    found.setdefault(run.method, []).append(run)
  return found


def markdown(text: str) -> str:
  """The table of a comparison; text that is no Markdown table stays as it is.

  Args:
    text: of `table.md`.
  """
  rows = [
    [cell.strip().replace(r'\|', '|') for cell in re.split(r'(?<!\\)\|', line)]
    for line in text.strip().splitlines()
  ]
  is_table = len(rows) > 1 and all(
    row[0] == row[-1] == '' and len(row) == len(rows[0]) > 2 for row in rows
  )
  if not is_table or any(re.sub('[:-]', '', cell) for cell in rows[1]):
    return f'<div class="card"><pre>{escape(text)}</pre></div>'
  head, _, *body = (row[1:-1] for row in rows)
  # Columns of numbers alone, or of nothing.
  aligned = [
    all(re.match(r'[-+]?\d|$', row[i]) for row in body)
    for i in range(len(head))
  ]
  written = [_row('th', head, aligned)]
  written += [_row('td', row, aligned) for row in body]
  return _table(written[0], written[1:])


def score_table(runs: Sequence[Run]) -> str:
  """Scores of the last evaluations, with their protocols.

  Args:
    runs: those of one method share a column, with mean and deviation.

  Returns:
    HTML; '' where no run has been evaluated.
  """
  methods = by_method(runs)
  names = dict.fromkeys(name for run in runs for name in run.scores)
  if not names:
    return ''
  split = {name: split_score(name) for name in names}
  restored: dict[tuple[str, str], list[str]] = {}
  inputs: dict[tuple[str, str], list[str]] = {}
  for name, found in split.items():
    if found is not None:
      rows = inputs if found.of_input else restored
      rows.setdefault((found.of, found.protocol), []).append(name)
  others = [name for name, found in split.items() if found is None]

  head = '<th></th>'
  if restored:
    head = '<th>pictures</th><th>protocol</th>'
  if inputs:
    head += '<th class="number">degraded input</th>'
  columns_before = head.count('<th')
  for method, own in methods.items():
    seeds = f'<small>{len(own)} seeds</small>' if len(own) > 1 else ''
    head += f'<th class="number">{escape(method)}{seeds}</th>'
  body = []
  for key, names_of_row in restored.items():
    of, protocol = key
    cells = [f'<th>{escape(of) or "all"}</th><td><code>{protocol}</code></td>']
    if inputs:
      # All runs score the same degraded pictures.
      values = _values(runs, inputs.get(key, ()))
      cells.append(_score_cell({x: v[:1] for x, v in values.items()}))
    columns = [_values(own, names_of_row) for own in methods.values()]
    first = [
      statistics.fmean(next(iter(x.values()))) if x else -1 for x in columns
    ]
    best = max(first) if len(first) > 1 else None
    cells += [
      _score_cell(values, best=mean == best)
      for values, mean in zip(columns, first, strict=True)
    ]
    mean = ' class="mean"' if of == 'mean' else ''
    body.append(f'<tr{mean}>{"".join(cells)}</tr>')
  for name in others:
    cells = [f'<th><code>{escape(name)}</code></th>']
    cells += ['<td></td>'] * (columns_before - 1)
    cells += [_score_cell(_values(own, [name])) for own in methods.values()]
    body.append(f'<tr>{"".join(cells)}</tr>')
  return _table(head, body) + _score_notes(runs, restored)


def _score_notes(
  runs: Sequence[Run], restored: Iterable[tuple[str, str]]
) -> str:
  """How to read the numbers, and what protocols mean."""
  steps = sorted({x[-1][0] for run in runs for x in run.scores.values()})
  notes = f'At the last evaluation, step {" or ".join(map(str, steps))}.'
  protocols = dict.fromkeys(protocol for _, protocol in restored)
  if protocols:
    notes += ' PSNR in dB, SSIM below it.'
  if any(len(own) > 1 for own in by_method(runs).values()):
    notes += ' Mean ± sample deviation over seeds.'
  meanings = '\n\n'.join(scores.describe(name) for name in protocols)
  return f'<p class="note">{notes}</p>' + (
    '<details class="card"><summary>What the protocols mean</summary>'
    f'<pre>{escape(meanings)}</pre></details>'
    if meanings
    else ''
  )


def _values(
  runs: Iterable[Run], names: Iterable[str]
) -> dict[str, list[float]]:
  """Last values of scores over runs, by name, of those that there are."""
  found = {
    name: [run.scores[name][-1][1] for run in runs if name in run.scores]
    for name in names
  }
  return {name: values for name, values in found.items() if values}


def _score_cell(values: Mapping[str, list[float]], best: bool = False) -> str:
  shown: list[str] = []
  for name, of_seeds in values.items():
    found = split_score(name)
    digits = _MEASURES[found.measure] if found else '.4f'
    spread = ''
    if len(of_seeds) > 1 and all(map(math.isfinite, of_seeds)):
      spread = f' <small>± {statistics.stdev(of_seeds):{digits}}</small>'
    text = f'{statistics.fmean(of_seeds):{digits}}{spread}'
    shown.append(f'<span>{text}</span>' if shown else text)
  kind = 'number best' if best else 'number'
  return f'<td class="{kind}">{"".join(shown) or _NONE}</td>'


def config_tables(runs: Sequence[Run]) -> str:
  """Configs: fields in which methods differ, and blocks of all others.

  Args:
    runs: at least one.
  """
  methods = by_method(runs)
  fields = dict.fromkeys(name for run in runs for name in run.config)
  different, alike = [], {}
  for name in fields:
    of_methods = [
      [*dict.fromkeys(_value(run.config, name) for run in own)]
      for own in methods.values()
    ]
    if any(values != of_methods[0][:1] for values in of_methods):
      cells = ''.join(
        f'<td><code>{", ".join(values)}</code></td>' for values in of_methods
      )
      row = f'<tr><th><code>{_breakable(name, ".")}</code></th>{cells}</tr>'
      different.append(row)
    else:
      alike[name] = of_methods[0][0]
  written = ''
  if different:
    head = ''.join(f'<th>{escape(method)}</th>' for method in methods)
    table = _table(f'<th></th>{head}', different)
    written = f'<h4>What differs</h4>{table}<h4>What all have</h4>'
  blocks: dict[str, list[str]] = {}
  for name, value in alike.items():
    block, _, field = name.rpartition('.')
    block, _, inner = block.partition('.')
    field = f'{inner}.{field}' if inner else field
    blocks.setdefault(block, []).append(
      f'<div><dt>{escape(field)}</dt><dd>{value}</dd></div>'
    )
  cards = ''.join(
    f'<div class="card"><h4>{escape(block) or "run"}</h4>'
    f'<dl>{"".join(rows)}</dl></div>'
    for block, rows in blocks.items()
  )
  return f'{written}<div class="blocks">{cards}</div>'


def _value(config: Mapping[str, object], name: str) -> str:
  """A field of a config, as HTML."""
  if name not in config:
    return _NONE
  value = config[name]
  text = value if isinstance(value, str) else json.dumps(value)
  return _breakable(text or "''")


def _breakable(text: str, after: str = '/') -> str:
  """Text whose lines may end after slashes, since paths are long."""
  return escape(text).replace(after, f'{after}<wbr>')


def count_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
  """Numbers that a model has learnt: statistics do not count."""
  return sum(math.prod(x) for name, x in shapes.items() if _is_learnt(name))


def _is_learnt(name: str) -> bool:
  return 'params' in name.split('/')


def parameter_tables(runs: Sequence[Run]) -> str:
  """Tensors of exported models by module; equal models share a table.

  Args:
    runs: at least one.

  Returns:
    HTML; '' where no run has ended.
  """
  models: dict[tuple[tuple[str, tuple[int, ...]], ...], list[str]] = {}
  for run in runs:
    if run.shapes is not None:
      models.setdefault(tuple(run.shapes.items()), []).append(run.name)
  return ''.join(
    _parameter_table(dict(shapes), names, alone=len(models) == 1)
    for shapes, names in models.items()
  )


def _parameter_table(
  shapes: Mapping[str, tuple[int, ...]], names: Sequence[str], *, alone: bool
) -> str:
  modules: dict[str, dict[str, tuple[int, ...]]] = {}
  for name, shape in sorted(shapes.items()):
    *path, leaf = name.split('/')
    kind = next((x for x in path if x in ('params', 'batch_stats')), None)
    place = path.index(kind) if kind else 0
    module = '/'.join(x for x in path[: place + 2] if x != kind)
    rest = '/'.join([*path[place + 2 :], leaf])
    if kind == 'batch_stats':
      rest += ' (statistics)'
    modules.setdefault(module or leaf, {})[rest] = shape
  learnt = count_parameters(shapes)
  total = sum(math.prod(shape) for shape in shapes.values())
  written = []
  for module, tensors in modules.items():
    count = sum(math.prod(shape) for shape in tensors.values())
    rows = ''.join(
      f'<tr><td class="mono">{_breakable(tensor)}</td>'
      f'<td class="number">{" &times; ".join(map(str, shape)) or "scalar"}</td>'
      f'<td class="number">{math.prod(shape):,}</td></tr>'
      for tensor, shape in tensors.items()
    )
    written.append(
      f'<details><summary><span class="mono">{escape(module)}</span>'
      f'<span class="bar"><i style="width:{100 * count / total:.1f}%"></i>'
      f'</span><span>{count:,}</span></summary>'
      f'<table>{rows}</table></details>'
    )
  of_statistics = ''
  if total > learnt:
    of_statistics = f', and {total - learnt:,} of statistics'
  return (
    f'<details class="card"{" open" if alone else ""}>'
    f'<summary>{escape(", ".join(names))} <span>{learnt:,} parameters'
    f'{of_statistics}, in {plural(len(shapes), "tensor")}</span></summary>'
    f'<div class="modules">{"".join(written)}</div></details>'
  )


def _row(tag: str, cells: Sequence[str], aligned: Sequence[bool]) -> str:
  written = ''.join(
    f'<{tag}{" class=number" * right}>{escape(cell)}</{tag}>'
    for cell, right in zip(cells, aligned, strict=True)
  )
  return written if tag == 'th' else f'<tr>{written}</tr>'


def _table(head: str, rows: Iterable[str]) -> str:
  return (
    f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
    f'<tbody>{"".join(rows)}</tbody></table></div>'
  )
