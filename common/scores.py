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
  scores = []
  for protocol in protocols:
    numbers = [
      float(found[key][0])
      for found in (
        metrics.score(x[None], target[None], metrics.PROTOCOLS[protocol])
        for x in (restored, image)
      )
      for key in ('psnr', 'ssim')
    ]
    scores.append(Score(name, protocol, *numbers))
  return scores


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


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
  """Markdown of means by row name: PSNR (dB) and SSIM, before and after."""
  protocols = dict.fromkeys(
    key.removesuffix('_input_psnr')
    for row in rows.values()
    for key in row
    if key.endswith('_input_psnr')
  )
  header = ''.join(f' {p}, input | {p}, restored |' for p in protocols)
  lines = [f'| |{header}', '|---|' + '---|---|' * len(protocols)]
  for name, row in rows.items():
    cells = ''.join(
      f' {row[f"{p}_{before}psnr"]:.3f} / {row[f"{p}_{before}ssim"]:.4f} |'
      for p in protocols
      for before in ('input_', '')
    )
    lines.append(f'| {name} |{cells}')
  return '\n'.join(lines)
