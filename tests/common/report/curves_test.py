"""Curves as SVG."""

import re

import pytest

from common.report import curves
from common.report.curves import Line, ticks


@pytest.mark.parametrize(
  ('low', 'high', 'expected'),
  [
    (0, 300, [0, 100, 200, 300]),
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (0.9, 1.1, [0.9, 0.95, 1, 1.05, 1.1]),
    (-3e-7, 5e-7, [-2e-7, 0, 2e-7, 4e-7]),
    (0, 1_000_000, [0, 2e5, 4e5, 6e5, 8e5, 1e6]),
  ],
)
def test_ticks(low, high, expected):
  assert ticks(low, high) == pytest.approx(expected, abs=1e-12)


def points(plot):
  return [
    [tuple(map(float, pair.split(','))) for pair in line.split()]
    for line in re.findall('points="(.*?)"', plot)
  ]


def test_places():
  plot = curves.plot('a', [Line('x', 0, [(0, 0.0), (10, 1.0)])], None)
  ((left, bottom), (right, top)) = points(plot)[0]
  assert (left, right) == (52, 310)
  # Six hundredths of room above and below, of 154 units in all.
  assert bottom == pytest.approx(164 - 154 * 0.06 / 1.12, abs=0.1)
  assert top == pytest.approx(10 + 154 * 0.06 / 1.12, abs=0.1)
  assert '<title>x, step 10: 1</title>' in plot


def test_logarithmic():
  line = Line('x', 0, [(0, 1.0), (1, 10.0), (2, 100.0)])
  (_, middle, _) = points(curves.plot('a', [line], None))[0]
  assert middle[1] == pytest.approx((10 + 164) / 2)
  line = Line('x', 0, [(0, 0.0), (1, 10.0), (2, 100.0)])  # 0 has no logarithm.
  assert 'logarithmic' not in curves.plot('a', [line], None)


@pytest.mark.parametrize('value', [0.0, 5.0, -2.0, 1e-30, 1e30])
def test_constant(value):
  line = Line('x', 9, [(0, value), (7, value)])
  plot = curves.plot('a', [line], value)
  assert 'class="curve s1 dashed"' in plot
  ((_, one), (_, other)) = points(plot)[0]
  assert one == other == pytest.approx((10 + 164) / 2)


def test_long_curves_keep_their_end():
  curve = [(step, step / 3) for step in range(10_001)]
  found = points(curves.plot('a', [Line('x', 0, curve)], None))[0]
  assert len(found) <= 402
  assert found[0][0] == 52 and found[-1][0] == 310


def test_labels_of_large_steps():
  plot = curves.plot('a', [Line('x', 0, [(0, 1), (300_000, 2)])], None)
  assert '>100k<' in plot and '>300k<' in plot
