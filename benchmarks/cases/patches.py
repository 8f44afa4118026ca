"""Patch analysis of TRNR: patches from pictures, and their clusters."""

import functools
from collections.abc import Iterator

import numpy as np

from benchmarks.peers import patches as peer
from benchmarks.side_by_side import Case, Prepared
from common.data import pairs, photos
from trnr import patches

_SIZE, _STRIDE, _SIDE = 64, 32, 352  # A picture has 100 patches.


def cases() -> Iterator[Case]:
  """Against a peer as published, and one that compares with all at once."""
  for name, at_once in (('', False), (' at once', True)):
    yield Case(
      name=f'patch_analysis 5000{name}',
      ours=_ours,
      peer=functools.partial(_peer, at_once),
      tolerance=0.0,
      target=0.5,
    )


def _ours() -> Prepared:
  clean = _pictures()
  source = pairs.CleanArrays(clean, tuple(map(str, range(len(clean)))))

  def run() -> dict[str, np.ndarray]:
    found = patches.analyse(source, size=_SIZE, stride=_STRIDE)
    return {'clean': found.clean, 'sizes': found.sizes}

  return Prepared(run, lambda: _summary(run()))


def _peer(at_once: bool) -> Prepared:
  clean = _pictures()

  def run() -> dict[str, np.ndarray]:
    cut = peer.cut(clean, _SIZE, _STRIDE)
    order = np.random.default_rng(0).permutation(len(cut))
    found = peer.cluster(cut, order, at_once=at_once)
    kept = [members for members in found if len(members) > 1]
    return {
      'clean': np.stack([cut[i] for members in kept for i in members]),
      'sizes': np.array([len(members) for members in kept]),
    }

  return Prepared(run, lambda: _summary(run()))


def _summary(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Of each patch its sum, which tells nearly all apart."""
  sums = found['clean'].sum((1, 2, 3), dtype=np.int64)
  return {'sums': sums, 'sizes': found['sizes']}


def _pictures() -> list[np.ndarray]:
  """Fifty parts of natural photos under different light."""
  rng = np.random.default_rng(0)
  large = [
    photo
    for photo in photos.embedded_photos().values()
    if min(photo.shape[:2]) >= _SIDE
  ]
  pictures = []
  for number in range(50):
    photo = large[number % len(large)]
    top, left = (int(rng.integers(x - _SIDE + 1)) for x in photo.shape[:2])
    part = photo[top : top + _SIDE, left : left + _SIDE]
    lit = 255 * (part / 255) ** rng.uniform(0.5, 2)
    pictures.append(np.rint(lit).astype(np.uint8))
  return pictures
