import json

import numpy as np
import pytest
from PIL import Image

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


def test_pictures_are_files_and_lines(tmp_path):
  writer = metric_writers.MetricWriter(tmp_path, num_steps=9, tensorboard=True)
  for step in (3, 6):
    shown = np.full((5, 4, 3), step, np.uint8)
    writer.write_pictures(step, {'grid': shown, 'pairs/a_before': shown})
  writer.close()
  folder = tmp_path / 'pictures'
  assert {str(x.relative_to(folder)) for x in folder.rglob('*.png')} == {
    *('grid/00000003.png', 'grid/00000006.png', 'pairs/a_before.png'),
  }
  assert (np.asarray(Image.open(folder / 'grid/00000003.png')) == 3).all()
  assert (np.asarray(Image.open(folder / 'pairs/a_before.png')) == 6).all()
  lines = (tmp_path / metric_writers.PICTURES_FILE).read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {'step': s, 'name': 'grid', 'file': f'pictures/grid/{s:08d}.png'}
    for s in (3, 6)
  ]
  (events,) = tmp_path.glob('events.*')
  assert b'grid' in events.read_bytes()
  # A run that goes on from before the second picture makes it again.
  metric_writers.MetricWriter(tmp_path, num_steps=9, resumed_at=4)
  assert [x.name for x in (folder / 'grid').iterdir()] == ['00000003.png']
  text = (tmp_path / metric_writers.PICTURES_FILE).read_text()
  assert text == lines[0] + '\n'
