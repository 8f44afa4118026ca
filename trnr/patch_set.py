"""Patches in clusters: in memory, in one file, in the published folders."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from common.data import images, pairs
from common.whole_files import written_whole
from trnr import clustering

_HISTOGRAM_HEIGHT = 48
_BIN_WIDTH = 3


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
    with written_whole(path) as partial, partial.open('wb') as file:
      np.savez(file, **arrays)

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


def read_folders(
  root: pathlib.Path | str, *, grey: bool = False, centres: bool = False
) -> PatchSet:
  """Reads the published layout, as `PatchSet.write_folders` writes it.

  Clusters are numbered by the string order of their folders (cp-0, cp-1,
  cp-10, ...), patches by that of their files, as in the published program.

  Args:
    root: folder with `clean` and, but for noise, `rain`.
    grey: give one channel.
    centres: take each `center.png`, the centre of a cluster, for a patch, as
      the published program does.

  Returns:
    The patches.

  Raises:
    FileNotFoundError: there are no cluster folders.
    ValueError: an image is absent or damaged, or patches have different
      numbers of degraded versions.
  """
  root = pathlib.Path(root)
  folders = sorted(x for x in (root / 'clean').glob('*') if x.is_dir())
  if not folders:
    raise FileNotFoundError(f'{root / "clean"} has no cluster folders')
  clean, degraded, cluster = [], [], []
  for label, folder in enumerate(folders):
    paths = sorted(folder.glob('*.png'))
    if not centres:
      paths = [path for path in paths if path.name != 'center.png']
    files = pairs.CleanFiles(tuple(paths), grey)
    clean += [files[number]['target'] for number in range(len(files))]
    cluster += [label] * len(paths)
    rainy = root / 'rain' / folder.name
    if not (root / 'rain').is_dir():
      continue
    for path in paths:
      several = sorted(
        rainy.glob(f'{path.stem}x*.png'),
        key=lambda x: int(x.stem.rpartition('x')[2]),
      )
      partners = several or [rainy / path.name]
      degraded.append([images.read_rgb(partner) for partner in partners])
  if len({len(versions) for versions in degraded}) > 1:
    raise ValueError(
      f'patches in {root / "rain"} have different numbers of versions: '
      f'{sorted({len(versions) for versions in degraded})}'
    )
  return PatchSet(
    np.stack(clean), np.array(degraded) if degraded else None, np.array(cluster)
  )


def draw_clusters(
  patch_set: PatchSet, path: pathlib.Path | str, *, shown: int = 8
) -> None:
  """Draws a row for each cluster: its size, patches, and mean histogram.

  Args:
    patch_set: to draw.
    path: of the .png.
    shown: patches in a row.
  """
  size = patch_set.clean.shape[1]
  margin, pitch = 40, size + 4
  row_height = max(pitch, _HISTOGRAM_HEIGHT + 4)
  width = margin + shown * pitch + clustering.BINS * _BIN_WIDTH
  canvas = Image.new('RGB', (width, row_height * len(patch_set.sizes)), 'white')
  pen = ImageDraw.Draw(canvas)
  clusters = zip(patch_set.starts, patch_set.sizes, strict=True)
  for row, (start, count) in enumerate(clusters):
    members = patch_set.clean[start : start + count]
    top = row * row_height
    pen.text((4, top + 4), str(count), fill='black')
    for column, patch in enumerate(members[:shown]):
      canvas.paste(_picture(patch), (margin + column * pitch, top))
    counts = clustering.histograms(members).mean(0).reshape(-1, clustering.BINS)
    colours = ('red', 'green', 'blue') if len(counts) == 3 else ('black',)
    for channel, colour in zip(counts, colours, strict=True):
      heights = _HISTOGRAM_HEIGHT * (1 - channel / counts.max())
      left = margin + shown * pitch
      points = [(left + _BIN_WIDTH * i, top + h) for i, h in enumerate(heights)]
      pen.line(points, fill=colour)
  canvas.save(path)


def _write_png(path: pathlib.Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  _picture(image).save(path)


def _picture(patch: np.ndarray) -> Image.Image:
  return Image.fromarray(patch[..., 0] if patch.shape[-1] == 1 else patch)
