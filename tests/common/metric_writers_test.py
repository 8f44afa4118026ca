import json

import pytest

from common import metric_writers


def test_lines_after_the_resumed_step_are_dropped(tmp_path):
  writer = metric_writers.MetricWriter(tmp_path, num_steps=9)
  for step in (1, 2, 3):
    writer.write(step, {'loss': 1.0 / step})
  with (tmp_path / metric_writers.METRICS_FILE).open('a') as file:
    file.write('{"step": 4, "lo')  # Killed while writing.
  resumed = metric_writers.MetricWriter(tmp_path, num_steps=9, resumed_at=2)
  resumed.write(3, {'loss': 5.0})
  assert metric_writers.read_metrics(tmp_path) == [
    {'step': 1, 'loss': 1.0},
    {'step': 2, 'loss': 0.5},
    {'step': 3, 'loss': 5.0},
  ]


def test_a_damaged_line_is_named(tmp_path):
  path = tmp_path / metric_writers.METRICS_FILE
  path.write_text('{"step": 1}\nnot json\n{"step": 3}\n')
  with pytest.raises(ValueError, match=r'metrics.jsonl: line 2 is not JSON'):
    metric_writers.read_metrics(tmp_path)


def test_tensorboard_files_hold_the_numbers(tmp_path):
  writer = metric_writers.MetricWriter(tmp_path, num_steps=2, tensorboard=True)
  writer.write(1, {'a_scalar': 0.25})
  writer.close()
  (events,) = tmp_path.glob('events.*')
  assert b'a_scalar' in events.read_bytes()
  line = (tmp_path / metric_writers.METRICS_FILE).read_text()
  assert json.loads(line) == {'step': 1, 'a_scalar': 0.25}
