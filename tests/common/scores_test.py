"""Scores of images, their means and table."""

import math

import numpy as np
import pytest

from common import scores

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
