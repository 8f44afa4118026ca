"""Curves as SVG that is part of a page and takes its colours."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from common.report.contents import Curve
from common.report.text import escape

# In the units of the drawing, which the page scales.
_WIDTH, _HEIGHT = 320, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 310, 10, 164
_MOST_POINTS = 400
# A range of as many times is drawn in a logarithmic scale.
_LOGARITHMIC_FROM = 50.0


class Line(NamedTuple):
  """One curve of a plot.

  Attributes:
    name: of the run.
    style: number of its colour, from 0.
    points: steps and values, in order.
  """

  name: str
  style: int
  points: Curve


def plot(title: str, lines: Sequence[Line], baseline: float | None) -> str:
  """Draws curves over steps.

  Args:
    title: of the plot.
    lines: at least one, of at least one point each. Of long ones, points are
      left out evenly.
    baseline: a value to mark by a dashed line, or None.

  Returns:
    A `figure` element.
  """
  values = [value for line in lines for _, value in line.points]
  if baseline is not None:
    values.append(baseline)
  steps = [step for line in lines for step, _ in line.points]
  low, high = min(values), max(values)
  logarithmic = low > 0 and high / low > _LOGARITHMIC_FROM
  to_x = _scale(0, max(1, *steps), _LEFT, _RIGHT)
  to_y, marks = _vertical(low, high, logarithmic)
  parts = []
  for mark in marks:
    y = to_y(mark)
    parts.append(
      f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" '
      f'y2="{y:.1f}"/><text x="{_LEFT - 6}" y="{y + 3.5:.1f}" '
      f'text-anchor="end">{_label(mark)}</text>'
    )
  parts += [
    f'<text x="{to_x(mark):.1f}" y="{_BOTTOM + 18}" text-anchor="middle">'
    f'{_label(mark)}</text>'
    for mark in ticks(0, max(1, *steps))
  ]
  if baseline is not None:
    y = to_y(baseline)
    parts.append(
      f'<line class="baseline" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" '
      f'y2="{y:.1f}"><title>degraded input: {baseline:.4g}</title></line>'
    )
  for line in lines:
    shown = _thinned(line.points)
    places = [(to_x(step), to_y(value)) for step, value in shown]
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
    step, value = line.points[-1]
    tip = escape(f'{line.name}, step {step}: {value:.4g}')
    x, y = places[-1]
    parts.append(
      f'<g class="curve {style_class(line.style)}" '
      f'data-style="{line.style}"><title>{tip}</title>'
      f'<polyline points="{path}"/>'
      f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/></g>'
    )
  scale = '<small>logarithmic</small>' if logarithmic else ''
  name = escape(title)
  return (
    f'<figure class="plot"><figcaption>{name}{scale}</figcaption>'
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="{name} over steps">{"".join(parts)}</svg></figure>'
  )


def style_class(style: int) -> str:
  """Classes of a style: one of eight colours; further ones are dashed."""
  return f's{style % 8}' + (' dashed' if style >= 8 else '')


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round numbers in a range, at most `count` + 1, evenly spaced.

  Args:
    low: lower end.
    high: upper end, greater than `low`.
    count: intervals at most.
  """
  raw = (high - low) / count
  magnitude = 10.0 ** math.floor(math.log10(raw))
  step = next(
    x * magnitude
    for x in (1, 2, 2.5, 5, 10, 20)
    # Rounding must not make the next step of it.
    if x * magnitude >= raw * (1 - 1e-9)
  )
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [step * i for i in range(first, last + 1)]


def _vertical(
  low: float, high: float, logarithmic: bool
) -> tuple[Callable[[float], float], list[float]]:
  """The scale of the values, with some room, and the marks on it."""
  if logarithmic:
    to_place = _scale(math.log10(low), math.log10(high), _BOTTOM - 4, _TOP + 4)
    ends = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**i for i in range(ends[0], ends[1] + 1)]
    marks = [x for x in decades if low <= x <= high]
    if len(marks) < 3:
      marks = [x * y for x in decades for y in (1, 3) if low <= x * y <= high]
    every = math.ceil(len(marks) / 5)
    return lambda x: to_place(math.log10(x)), marks[::every]
  room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
  low, high = low - room, high + room
  return _scale(low, high, _BOTTOM, _TOP), ticks(low, high)


def _scale(
  low: float, high: float, start: float, end: float
) -> Callable[[float], float]:
  return lambda x: start + (x - low) / (high - low) * (end - start)


def _thinned(points: Curve) -> Iterable[tuple[int, float]]:
  every = math.ceil(len(points) / _MOST_POINTS)
  if every == 1:
    return points
  return [*itertools.islice(points[:-1], 0, None, every), points[-1]]


def _label(value: float) -> str:
  if abs(value) >= 10_000:
    for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
      if abs(value) >= size:
        return f'{value / size:.4g}{unit}'
  return f'{value:.6g}'
