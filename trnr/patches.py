"""Patch analysis: patches cut from images, and clusters of like intensities.

  python -m trnr.patches CLEAN OUT.npz --degraded RAINY --size 64 --stride 32

cuts patches, clusters the clean ones by their histograms, and writes them, with
their degraded partners, to one file. A cluster is what the paper calls a
frequency.
"""

import argparse
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from common.data import images, pairs
from trnr import clustering

SingleMember = Literal['drop', 'keep', 'merge']
_SINGLE_MEMBER = ('drop', 'keep', 'merge')


@dataclasses.dataclass(frozen=True, eq=False)
class PatchSet:
  """Patches in clusters.

  Attributes:
    clean: uint8 [n, size, size, c].
    degraded: uint8 [n, variants, size, size, c], or None where only clean
      patches are needed (noise).
    cluster: of each patch, integers [n] in 0..clusters-1, in ascending order.
  """

  clean: np.ndarray
  degraded: np.ndarray | None
  cluster: np.ndarray

  def __post_init__(self) -> None:
    count = len(self.clean)
    if len(self.cluster) != count or (
      self.degraded is not None
      and (
        len(self.degraded) != count
        or self.degraded.shape[2:] != self.clean.shape[1:]
      )
    ):
      degraded = None if self.degraded is None else list(self.degraded.shape)
      raise ValueError(
        f'clean {list(self.clean.shape)}, degraded {degraded} and cluster '
        f'{list(self.cluster.shape)} do not fit together'
      )
    if count == 0:
      raise ValueError('a patch set needs at least one patch')
    if (np.diff(self.cluster) < 0).any():
      raise ValueError('patches must be in the order of their clusters')

  def __len__(self) -> int:
    return len(self.clean)

  @property
  def sizes(self) -> np.ndarray:
    """Number of patches in each cluster, integers [clusters]."""
    return np.bincount(self.cluster)

  @property
  def starts(self) -> np.ndarray:
    """Index of the first patch of each cluster, integers [clusters]."""
    return np.searchsorted(self.cluster, np.arange(self.cluster[-1] + 1))

  def summary(self) -> str:
    """One line on patches and clusters."""
    sizes = self.sizes
    return (
      f'{len(self)} patches of {self.clean.shape[1]} pixels in {len(sizes)} '
      f'clusters of {sizes.min()} to {sizes.max()} (median '
      f'{np.median(sizes):g})'
    )

  def write(self, path: pathlib.Path | str) -> None:
    """Writes everything to one .npz file; its folder is made if need be."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {'clean': self.clean, 'cluster': self.cluster}
    if self.degraded is not None:
      arrays['degraded'] = self.degraded
    partial = path.with_name(path.name + '.partial')
    with partial.open('wb') as file:
      np.savez(file, **arrays)
    partial.replace(path)

  @classmethod
  def read(cls, path: pathlib.Path | str) -> 'PatchSet':
    """Reads what `write` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is not one of ours; names it.
    """
    path = pathlib.Path(path)
    if not path.is_file():
      raise FileNotFoundError(f'there is no patch file {path}')
    try:
      with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
      return cls(arrays['clean'], arrays.get('degraded'), arrays['cluster'])
    except (OSError, ValueError, KeyError, AttributeError, EOFError) as error:
      raise ValueError(f'{path} is not a patch file: {error}') from error

  def write_folders(self, root: pathlib.Path | str) -> None:
    """Writes the published layout: `root/clean/cp-N/patch-I.png` and `rain`.

    Variants beyond one are numbered: `rain/cp-N/patch-IxV.png`.

    Args:
      root: folder of one split, such as `DATA/train`.
    """
    root = pathlib.Path(root)
    starts = self.starts
    for index, (clean, cluster) in enumerate(
      zip(self.clean, self.cluster, strict=True)
    ):
      folder, name = f'cp-{cluster}', f'patch-{index - starts[cluster]}'
      _write_png(root / 'clean' / folder / f'{name}.png', clean)
      if self.degraded is None:
        continue
      several = self.degraded.shape[1] > 1
      for variant, degraded in enumerate(self.degraded[index], 1):
        suffix = f'x{variant}' if several else ''
        _write_png(root / 'rain' / folder / f'{name}{suffix}.png', degraded)


def patch_positions(
  height: int,
  width: int,
  *,
  size: int,
  stride: int,
  origin: tuple[int, int] = (0, 0),
  border: Literal['complete', 'published'] = 'complete',
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
  if border not in ('complete', 'published'):
    raise ValueError(f"border {border!r} must be 'complete' or 'published'")
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
  border: Literal['complete', 'published'] = 'complete',
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
  stacked = np.stack(clean)
  order = np.random.default_rng(seed).permutation(len(stacked))
  clusters = clustering.cluster_patches(
    stacked,
    order,
    threshold=threshold,
    max_clusters=max_clusters,
    merge_singles=single_member == 'merge',
    grey_histogram=grey_histogram,
  )
  fewest = 2 if single_member == 'drop' else 1
  kept = [x for x in clusters.members if len(x) >= fewest]
  if not kept:
    raise ValueError(
      f'no cluster has two patches at threshold {threshold}; raise it, or cut '
      'more patches'
    )
  indices = np.concatenate(kept)
  return PatchSet(
    clean=stacked[indices],
    degraded=np.stack([np.stack(degraded[i]) for i in indices])
    if variants != {0}
    else None,
    cluster=np.repeat(np.arange(len(kept)), [len(x) for x in kept]),
  )


def read_folders(root: pathlib.Path | str) -> PatchSet:
  """Reads the published layout, as `PatchSet.write_folders` writes it.

  Clusters are numbered by the string order of their folders (cp-0, cp-1,
  cp-10, ...), patches by that of their files, as in the published program.
  `center.png` is left out, which that program takes for a patch.

  Args:
    root: folder with `clean` and, but for noise, `rain`.

  Returns:
    The patches.

  Raises:
    FileNotFoundError: there are no cluster folders.
    ValueError: a partner is missing, or an image is damaged; names the file.
  """
  root = pathlib.Path(root)
  folders = sorted(x for x in (root / 'clean').glob('*') if x.is_dir())
  if not folders:
    raise FileNotFoundError(f'{root}/clean has no cluster folders')
  clean, degraded, cluster = [], [], []
  for label, folder in enumerate(folders):
    for path in sorted(folder.glob('*.png')):
      if path.name == 'center.png':
        continue
      clean.append(images.read_rgb(path))
      cluster.append(label)
      rainy = root / 'rain' / folder.name
      partners = sorted(
        rainy.glob(f'{path.stem}x*.png'),
        key=lambda x: int(x.stem.rpartition('x')[2]),
      ) or [rainy / path.name]
      if (root / 'rain').is_dir():
        degraded.append(np.stack([images.read_rgb(x) for x in partners]))
  return PatchSet(
    np.stack(clean), np.stack(degraded) if degraded else None, np.array(cluster)
  )


def plot(patch_set: PatchSet, path: pathlib.Path | str, shown: int = 8) -> None:
  """Draws a row for each cluster: some of its patches, and its histogram.

  Args:
    patch_set: to draw.
    path: of the .png.
    shown: patches in a row.
  """
  from matplotlib import figure  # Half a second of import, only for figures.

  sizes, starts = patch_set.sizes, patch_set.starts
  canvas = figure.Figure(
    figsize=(shown + 3, 0.8 * len(sizes)), layout='constrained'
  )
  grid = canvas.subplots(
    len(sizes), shown + 1, squeeze=False, width_ratios=[1] * shown + [3]
  )
  for row, start, count in zip(grid, starts, sizes, strict=True):
    members = patch_set.clean[start : start + count]
    for column, axes in enumerate(row):
      axes.set_xticks([])
      axes.set_yticks([])
      if column < min(shown, count):
        axes.imshow(members[column], cmap='gray')
      elif column < shown:
        axes.axis('off')
    counts = clustering.histograms(members).mean(0).reshape(-1, clustering.BINS)
    colours = ('tab:red', 'tab:green', 'tab:blue') if len(counts) == 3 else 'k'
    for channel, colour in zip(counts, colours, strict=True):
      row[-1].plot(channel, color=colour)
    row[0].set_ylabel(f'{count}', rotation=0, labelpad=12)
  canvas.savefig(path, dpi=60)


def _write_png(path: pathlib.Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


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


def main(arguments: Sequence[str] | None = None) -> None:
  """Analyses a folder; see the module, or `--help`."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('clean', metavar='CLEAN', help='folder of clean images')
  parser.add_argument('output', metavar='OUT', help='.npz')
  parser.add_argument('--degraded', help='folder of their degraded partners')
  parser.add_argument('--size', type=int, default=64)
  parser.add_argument('--stride', type=int, default=32)
  parser.add_argument('--threshold', type=float, default=0.45)
  parser.add_argument('--max_clusters', type=int, default=350)
  parser.add_argument('--single_member', default='drop', choices=_SINGLE_MEMBER)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--grey', action='store_true', help='one channel')
  parser.add_argument('--folders', help='write the published layout here too')
  options = vars(parser.parse_args(arguments))
  clean, degraded = options.pop('clean'), options.pop('degraded')
  output, folders = pathlib.Path(options.pop('output')), options.pop('folders')
  grey = options.pop('grey')
  if output.suffix != '.npz':
    parser.error(f'OUT {output} must end in .npz')
  try:
    source: pairs.PairSource = (
      pairs.paired_folders(degraded, clean)
      if degraded
      else pairs.clean_folder(clean, grey=grey)
    )
    print(f'{len(source)} images')
    patch_set = analyse(source, **options)
    patch_set.write(output)
    if folders:
      patch_set.write_folders(folders)
  except (OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  plot(patch_set, output.with_suffix('.png'))
  print(f'{output}: {patch_set.summary()}')
  print(f'clusters: {output.with_suffix(".png")}')


if __name__ == '__main__':
  main()
