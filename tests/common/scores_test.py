"""Scores of images, their means and table."""

import math

import numpy as np
import pytest

from common import metrics, scores

TARGET = np.full((16, 16, 3), 0.5, np.float32)


def score(error, name='a'):
  return scores.score_image(
    name, TARGET + np.float32(error), TARGET + 0.1, TARGET, ('trnr_rgb',)
  )


def test_score_of_a_constant_error():
  (found,) = score(0.01)
  assert (found.name, found.protocol) == ('a', 'trnr_rgb')
  assert math.isclose(found.psnr, 40, rel_tol=1e-5)
  assert math.isclose(found.input_psnr, 20, rel_tol=1e-5)
  assert found.input_ssim < found.ssim < 1


def test_means_and_table():
  means = scores.means(score(0.01) + score(0.1, 'b'))
  assert means.keys() == {
    f'trnr_rgb_{field}'
    for field in ('psnr', 'ssim', 'input_psnr', 'input_ssim')
  }
  assert math.isclose(means['trnr_rgb_psnr'], 30, rel_tol=1e-5)
  lines = scores.table({'two images': means}).splitlines()
  assert lines[0] == '| | trnr_rgb, input | trnr_rgb, restored |'
  assert lines[2].startswith('| two images | 20.000 / ')


def test_unknown_protocol():
  with pytest.raises(ValueError, match=r"'rgb' must be one of \['trnr_rgb'"):
    scores.require_protocols(['trnr_rgb', 'rgb'])


def test_table_of_scores_alone():
  rows = {
    name: scores.score_pair(TARGET + np.float32(error), TARGET, ('trnr_rgb',))
    for name, error in (('a|b', 0.1), ('c', 0.01))
  }
  rows['mean'] = scores.mean_of(rows)
  lines = scores.table(rows).splitlines()
  assert lines[:2] == ['| | trnr_rgb |', '|---|---|']
  assert lines[2].startswith(r'| a\|b | 20.000 / ')
  assert lines[4].startswith('| mean | 30.000 / ')


def test_protocols_are_described():
  for name in metrics.PROTOCOLS:
    lines = scores.describe(name).splitlines()
    assert lines[0] == name and len(lines) == 6
  assert 'luma of BT.601' in scores.describe('matlab_y')
  assert 'truncated' in scores.describe('trnr_rgb_saved')
  assert 'round(shorter side / 256)' in scores.describe('coic_y')
