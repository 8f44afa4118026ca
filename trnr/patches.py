"""Patch analysis: patches cut from images, and clusters of like intensities.

  python -m trnr.patches CLEAN OUT.npz --degraded RAINY --size 64 --stride 32

cuts patches, clusters the clean ones by their histograms, and writes them, with
their degraded partners, to one file. A cluster is what the paper calls a
frequency.
"""

import argparse
import itertools
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from common import console
from common.data import pairs
from trnr import clustering
from trnr.patch_set import draw_clusters, PatchSet

_LOGGER = logging.getLogger(__name__)

Border = Literal['complete', 'published']
SingleMember = Literal['drop', 'keep', 'merge']
_BORDER = ('complete', 'published')
_SINGLE_MEMBER = ('drop', 'keep', 'merge')


def patch_positions(
  height: int,
  width: int,
  *,
  size: int,
  stride: int,
  origin: tuple[int, int] = (0, 0),
  border: Border = 'complete',
) -> np.ndarray:
  """Where the patches of an image begin: rows outer, columns inner.

  Args:
    height: of the image, in pixels.
    width: of the image.
    size: side of a patch.
    stride: from patch to patch, in both directions.
    origin: row and column of the first patch.
    border: 'complete' takes the patches that end at the border; 'published'
      leaves them out, as the published program does.

  Returns:
    Integers [n, 2], n >= 0.

  Raises:
    ValueError: size or stride is not positive, or the border rule unknown.

  Source: Ran et al., the program.
  """
  if size < 1 or stride < 1:
    raise ValueError(f'size {size} and stride {stride} must be positive')
  if border not in _BORDER:
    raise ValueError(f'border {border!r} must be one of {_BORDER}')
  beyond = 1 if border == 'complete' else 0
  rows = range(origin[0], height - size + beyond, stride)
  columns = range(origin[1], width - size + beyond, stride)
  return np.array([*itertools.product(rows, columns)]).reshape(-1, 2)


def analyse(
  source: pairs.PairSource,
  *,
  size: int = 64,
  stride: int = 32,
  threshold: float = 0.45,
  max_clusters: int = 350,
  single_member: SingleMember = 'drop',
  smallest_cluster: int = 1,
  border: Border = 'complete',
  origins: Sequence[tuple[int, int]] = ((0, 0),),
  grey_histogram: Literal['patch', 'published'] = 'patch',
  seed: int = 0,
) -> PatchSet:
  """Cuts patches from pictures and clusters the clean ones.

  Args:
    source: pairs, or clean images alone. Elements in a row with the same clean
      image are variants of one scene.
    size: side of the patches in pixels.
    stride: see `patch_positions`.
    threshold: see `clustering.cluster_patches`.
    max_clusters: see `clustering.cluster_patches`.
    single_member: what becomes of clusters of one patch, which no task can
      draw from: 'drop' (as published for pairs), 'merge' into the nearest
      other (as published for noise), or 'keep'.
    smallest_cluster: clusters of fewer patches are left out; tasks of K shots
      and as many query shots need 2 K.
    border: see `patch_positions`.
    origins: of the grids of patches; more than one makes more patches.
    grey_histogram: see `clustering.histograms`.
    seed: of the order in which patches are visited.

  Returns:
    Patches in the order of their clusters.

  Raises:
    ValueError: an option is invalid, images are smaller than a patch, scenes
      have different numbers of variants, or no cluster is left.

  Source: Ran et al., IEEE TIP 2023 (patch analysis), and its program.
  """
  if single_member not in _SINGLE_MEMBER:
    raise ValueError(
      f'single_member {single_member!r} must be one of {_SINGLE_MEMBER}'
    )
  clean: list[np.ndarray] = []
  degraded: list[list[np.ndarray]] = []
  for name, target, inputs in _scenes(source):
    before = len(clean)
    for origin in origins:
      for top, left in patch_positions(
        *target.shape[:2],
        size=size,
        stride=stride,
        origin=origin,
        border=border,
      ):
        window = np.s_[top : top + size, left : left + size]
        clean.append(target[window])
        degraded.append([x[window] for x in inputs])
    if len(clean) == before:
      raise ValueError(
        f'{name} of {target.shape[0]} x {target.shape[1]} pixels has no patch '
        f'of size {size}'
      )
  variants = {len(x) for x in degraded}
  if len(variants) > 1:
    raise ValueError(
      f'scenes have different numbers of degraded images: {sorted(variants)}'
    )
  _LOGGER.info('%d images, %d patches', len(source), len(clean))
  order = np.random.default_rng(seed).permutation(len(clean))
  members = clustering.cluster_patches(
    clean,
    order,
    threshold=threshold,
    max_clusters=max_clusters,
    merge_singles=single_member == 'merge',
    grey_histogram=grey_histogram,
  ).members
  fewest = max(smallest_cluster, 2 if single_member == 'drop' else 1)
  kept = [x for x in members if len(x) >= fewest]
  if not kept:
    raise ValueError(
      f'no cluster has {fewest} patches at threshold {threshold}; raise it, or '
      'cut more patches'
    )
  indices = np.concatenate(kept)
  return PatchSet(
    clean=np.stack([clean[i] for i in indices]),
    degraded=np.stack([np.stack(degraded[i]) for i in indices])
    if variants != {0}
    else None,
    cluster=np.repeat(np.arange(len(kept)), [len(x) for x in kept]),
  )


def _scenes(
  source: pairs.PairSource,
) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
  """Name, clean image and degraded images of each scene."""
  target: np.ndarray | None = None
  inputs: list[np.ndarray] = []
  first = ''
  for name, index in zip(source.names, range(len(source)), strict=True):
    pair = source[index]
    if target is None or not np.array_equal(pair['target'], target):
      if target is not None:
        yield first, target, inputs
      first, target, inputs = name, pair['target'], []
    if 'input' in pair:
      inputs.append(pair['input'])
  if target is not None:
    yield first, target, inputs


def _pixel(text: str) -> tuple[int, int]:
  row, column = (int(number) for number in text.split(','))
  return row, column


def main(arguments: Sequence[str] | None = None) -> None:
  """Analyses a folder; see the module, or `--help`."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('clean', metavar='CLEAN', help='folder of clean images')
  parser.add_argument('output', metavar='OUT', help='.npz')
  parser.add_argument('--degraded', help='folder of their degraded partners')
  for side in ('degraded', 'clean'):
    parser.add_argument(
      f'--{side}_pattern',
      default=r'(.+)\.\w+',
      help='regular expression whose group pairs the file names',
    )
  parser.add_argument('--grey', action='store_true', help='clean, one channel')
  parser.add_argument('--folders', help='write the published layout here too')
  parser.add_argument('--size', type=int, default=64)
  parser.add_argument('--stride', type=int, default=32)
  parser.add_argument(
    '--origins',
    type=_pixel,
    nargs='+',
    default=[(0, 0)],
    metavar='ROW,COLUMN',
    help='first patch of each grid',
  )
  parser.add_argument('--border', default='complete', choices=_BORDER)
  parser.add_argument('--threshold', type=float, default=0.45)
  parser.add_argument('--max_clusters', type=int, default=350)
  parser.add_argument('--single_member', default='drop', choices=_SINGLE_MEMBER)
  parser.add_argument('--smallest_cluster', type=int, default=1)
  parser.add_argument(
    '--grey_histogram', default='patch', choices=clustering.GREY_HISTOGRAMS
  )
  parser.add_argument('--seed', type=int, default=0)
  options = vars(parser.parse_args(arguments))
  clean, degraded, grey, output, folders = (
    options.pop(x) for x in ('clean', 'degraded', 'grey', 'output', 'folders')
  )
  patterns = {
    'input_pattern': options.pop('degraded_pattern'),
    'target_pattern': options.pop('clean_pattern'),
  }
  output = pathlib.Path(output)
  if output.suffix != '.npz':
    parser.error(f'OUT {output} must end in .npz')
  if grey and degraded:
    parser.error('--grey is for clean images alone')
  console.configure()
  try:
    source: pairs.PairSource = (
      pairs.paired_folders(degraded, clean, **patterns)
      if degraded
      else pairs.clean_folder(clean, grey=grey)
    )
    patch_set = analyse(source, **options)
    patch_set.write(output)
    if folders:
      patch_set.write_folders(folders)
  except (OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  draw_clusters(patch_set, output.with_suffix('.png'))
  print(f'{output}: {patch_set.summary()}')
  print(f'clusters: {output.with_suffix(".png")}')


if __name__ == '__main__':
  console.run(main)
