"""The harness, which needs no PyTorch."""

import json
import time

import numpy as np
import pytest

from benchmarks import table
from benchmarks.side_by_side import Case, interleaved, Prepared, require_same


def prepared(values):
  return Prepared(lambda: None, lambda: values)


CASE = Case(name='a', ours=lambda: None, peer=lambda: None, tolerance=1e-3)


def test_ratio_is_that_of_second_runs(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: clock[0])
  order = []

  def side(name, *seconds):
    remaining = list(seconds)

    def run():
      order.append(name)
      if order.count(name) % 2 == 0:
        clock[0] += remaining.pop(0)
      else:
        clock[0] += 100

    return Prepared(run, dict)

  ours = side('a', 9, 1, 2, 3, 4)
  peer = side('b', 1, 2, 2, 2, 2)
  found = interleaved(ours, peer, rounds=4, warmup=1)
  assert ''.join(order) == 'aabbbbaaaabbbbaaaabb'
  assert found == {
    'ours_ms': 2500,
    'peer_ms': 2000,
    'ratio': 1.25,
    'ratio_min': 0.5,
    'ratio_max': 2,
  }


def test_equal_values_pass():
  ours, peer = np.array([1e3, 1.0]), np.array([1000.5, 0.5])
  require_same(CASE, prepared({'x': ours}), prepared({'x': peer}))


@pytest.mark.parametrize(
  ('ours', 'peer'),
  [
    ({'x': np.ones(2)}, {'y': np.ones(2)}),
    ({'x': np.ones(2)}, {'x': np.array([1.0, 1.01])}),
    ({'x': np.ones(3)}, {'x': np.ones(())}),
    ({'x': np.full(2, np.nan)}, {'x': np.array([1.0, np.nan])}),
  ],
)
def test_other_values_fail(ours, peer):
  with pytest.raises(AssertionError, match=r'a: |\n'):
    require_same(CASE, prepared(ours), prepared(peer))


ROW = {
  'name': 'work',
  'processor': 'Maker(R) Family(R) 9000 Processor',
  'ours_ms': 1234.5,
  'peer_ms': 2000.0,
  'ratio': 0.61,
  'ratio_min': 0.6,
  'ratio_max': 0.7,
  'memory_ratio': 0.5,
  'share_of_peak': 0.42,
}


def test_table_comes_from_the_files(tmp_path):
  (tmp_path / 'b.json').write_text(json.dumps([ROW]))
  (tmp_path / 'a.json').write_text(json.dumps([ROW | {'name': 'other'}]))
  rows = table.read(tmp_path)
  assert [row['name'] for row in rows] == ['other', 'work']
  line = table.table(rows).splitlines()[-1]
  numbers = '1,234 | 2,000 | 0.61 | 0.60..0.70 | 0.50 | 42%'
  assert line == f'| work | Maker Family | {numbers} |'


def test_readme_has_the_table_of_the_results():
  table.main(['--check'])


def test_page_without_marks():
  with pytest.raises(ValueError, match='the page has no'):
    table.with_table('text', '')
