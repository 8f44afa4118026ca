"""Names of scores, taken apart."""

from common.report.contents import ScoreName, split_score


def test_names_of_scores():
  assert split_score('heavy_coic_y_input_psnr') == ScoreName(
    'heavy', 'coic_y', 'psnr', True
  )
  assert split_score('trnr_rgb_saved_ssim') == ScoreName(
    '', 'trnr_rgb_saved', 'ssim', False
  )
  assert split_score('sigma15_y_8bit_psnr').of == 'sigma15'
  assert split_score('test_top1') is split_score('psnr') is None
  assert split_score('new_protocol_psnr') is None
