"""Scores of restored images under named protocols, their means and tables."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from common import metrics


class Score(NamedTuple):
  """What one image scored under one protocol.

  Attributes:
    name: of the image.
    protocol: its name.
    psnr: in decibels.
    ssim: in [-1, 1].
    input_psnr: of the degraded image.
    input_ssim: of the degraded image.
  """

  name: str
  protocol: str
  psnr: float
  ssim: float
  input_psnr: float
  input_ssim: float


def require_protocols(protocols: Sequence[str]) -> None:
  """Raises ValueError, listing the valid names, unless all are protocols."""
  for name in protocols:
    if name not in metrics.PROTOCOLS:
      raise ValueError(
        f'protocol {name!r} must be one of {[*metrics.PROTOCOLS]}'
      )


def score_pair(
  prediction: np.ndarray, target: np.ndarray, protocols: Sequence[str]
) -> dict[str, float]:
  """Scores one image.

  Args:
    prediction: restored, float [h, w, c], in [0, 1].
    target: the clean image, float [h, w, c], in [0, 1].
    protocols: names in `metrics.PROTOCOLS`.

  Returns:
    For each protocol `PROTOCOL_psnr` in decibels, and `PROTOCOL_ssim`.

  Raises:
    ValueError: shapes differ, or do not fit a protocol.
  """
  numbers: dict[str, float] = {}
  for name in protocols:
    found = metrics.score(
      prediction[None], target[None], metrics.PROTOCOLS[name]
    )
    numbers |= {f'{name}_{key}': float(found[key][0]) for key in found}
  return numbers


def score_image(
  name: str,
  restored: np.ndarray,
  image: np.ndarray,
  target: np.ndarray,
  protocols: Sequence[str],
) -> list[Score]:
  """Scores one image, before and after.

  Args:
    name: of the image.
    restored: float [h, w, c], in [0, 1].
    image: the degraded image, float [h, w, c].
    target: the clean image, float [h, w, c], in [0, 1].
    protocols: names in `metrics.PROTOCOLS`.

  Returns:
    One score for each protocol.

  Raises:
    ValueError: shapes differ, or do not fit a protocol.
  """
  after, before = (score_pair(x, target, protocols) for x in (restored, image))
  return [
    Score(
      name,
      protocol,
      *(
        found[f'{protocol}_{field}']
        for found in (after, before)
        for field in ('psnr', 'ssim')
      ),
    )
    for protocol in protocols
  ]


def is_own(index: int) -> bool:
  """Whether this process is the one to score image number `index`."""
  return index % jax.process_count() == jax.process_index()


def of_all_processes(
  own: Sequence[Score], names: Sequence[str], protocols: Sequence[str]
) -> list[Score]:
  """Gathers what each process has scored; called by all of them.

  Args:
    own: of the images for which `is_own`, in their order, each under all
      protocols.
    names: of all images.
    protocols: names of the protocols.

  Returns:
    One score for each image and protocol, in this order.
  """
  if jax.process_count() == 1:
    return list(own)
  numbers = np.zeros((len(names), len(protocols), 4))
  mine = [index for index in range(len(names)) if is_own(index)]
  numbers[mine] = np.reshape(
    [score[2:] for score in own], (-1, *numbers.shape[1:])
  )
  # As integers, since JAX would round the numbers to float32.
  parts = multihost_utils.process_allgather(numbers.view(np.uint32))
  numbers = parts.sum(axis=0, dtype=np.uint32).view(np.float64)
  return [
    Score(name, protocol, *(float(x) for x in row))
    for name, rows in zip(names, numbers, strict=True)
    for protocol, row in zip(protocols, rows, strict=True)
  ]


def means(scores: Sequence[Score]) -> dict[str, float]:
  """Means over images.

  Args:
    scores: of any images and protocols.

  Returns:
    For each protocol `PROTOCOL_psnr` in decibels, `PROTOCOL_ssim`, and
    `PROTOCOL_input_psnr` and `PROTOCOL_input_ssim` of the degraded images.
  """
  found: dict[str, float] = {}
  for protocol in dict.fromkeys(score.protocol for score in scores):
    rows = [score for score in scores if score.protocol == protocol]
    for field in ('psnr', 'ssim', 'input_psnr', 'input_ssim'):
      numbers = [getattr(row, field) for row in rows]
      found[f'{protocol}_{field}'] = float(np.mean(numbers))
  return found


def mean_of(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """Plain mean over rows, such as images or sets, of each of their scores."""
  keys = next(iter(rows.values()))
  return {
    key: float(np.mean([row[key] for row in rows.values()])) for key in keys
  }


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
  """Markdown of scores by row name: PSNR (dB) and SSIM.

  Rows with scores of the degraded images have them before the restored ones.
  """
  protocols = dict.fromkeys(
    key.removesuffix('_psnr').removesuffix('_input')
    for row in rows.values()
    for key in row
    if key.endswith('_psnr')
  )
  titles = {'': ''}
  if any(key.endswith('_input_psnr') for row in rows.values() for key in row):
    titles = {'input_': ', input', '': ', restored'}
  header = ''.join(f' {p}{x} |' for p in protocols for x in titles.values())
  lines = [f'| |{header}', '|---|' + '---|' * (len(protocols) * len(titles))]
  for name, row in rows.items():
    cells = ''.join(
      f' {row[f"{p}_{stage}psnr"]:.3f} / {row[f"{p}_{stage}ssim"]:.4f} |'
      for p in protocols
      for stage in titles
    )
    escaped = name.replace('|', r'\|')
    lines.append(f'| {escaped} |{cells}')
  return '\n'.join(lines)


# Whose figures a protocol gives. RSD has none: it classifies.
_USERS = {
  'trnr_rgb': 'TRNR (IEEE TIP 2023): figures of its test program, which '
  'scores float outputs',
  'trnr_rgb_saved': 'TRNR: the pictures that its test program saves; 8-bit '
  'files are scored as by rgb_8bit',
  'rgb_8bit': 'saved pictures, in colour or grey',
  'y_8bit': 'Python programs of the deraining field',
  'matlab_y': 'MATLAB programs of the deraining field: luma as rgb2ycbcr of '
  '8-bit pictures',
  'coic_y': 'CoIC (ICLR 2024): figures of its test program, which scores '
  'float outputs',
}


def describe(name: str) -> str:
  """Says what a protocol means, in a few lines of text.

  Args:
    name: in `metrics.PROTOCOLS`.

  Returns:
    Its name, and indented colour, levels, border, SSIM and users.
  """
  protocol = metrics.PROTOCOLS[name]
  colour = 'all channels of RGB, or grey'
  if protocol.colour == 'y':
    rounded = 'rounded to 8 bits' if protocol.round_luma else 'not rounded'
    colour = f'Y (luma of BT.601, 16 to 235) of RGB, {rounded}'
  levels = {
    'none': 'as they are, not rounded',
    'round': 'both pictures rounded to 8 bits first',
    'truncate': 'prediction truncated to 8 bits, target rounded',
  }[protocol.quantise]
  window = protocol.window_size
  pooling = 'not pooled'
  if protocol.pooling:
    pooling = 'after mean pooling by round(shorter side / 256)'
  lines = {
    'colour': colour,
    'levels': levels,
    'border': f'{protocol.border} pixels cut off on each side',
    'SSIM': f'Gaussian window of {window} x {window} pixels, deviation '
    f'{protocol.sigma}, inside of the picture only, {pooling}',
    'used by': _USERS[name],
  }
  return '\n'.join([name, *(f'  {key}: {x}' for key, x in lines.items())])
