"""Pictures of what `coic.analysis` finds."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def _picture(path: pathlib.Path, **labels: str) -> Iterator[Any]:
  """Axes to draw on; the PNG is written afterwards."""
  from matplotlib import figure  # Half a second of import, only for figures.

  canvas = figure.Figure(figsize=(7, 5), layout='constrained')
  axes = canvas.subplots()
  axes.set(**labels)
  yield axes
  canvas.savefig(path, dpi=150)


def plot_similarity(
  matrix: np.ndarray, names: Sequence[str], path: pathlib.Path
) -> None:
  """Draws similarities of sets as a heat map.

  Args:
    matrix: float [sets, sets].
    names: of the sets.
    path: of the PNG.
  """
  with _picture(path, title='mean cosine of pictures of two sets') as axes:
    picture = axes.imshow(matrix)
    axes.set_xticks(range(len(names)), names, rotation=45, ha='right')
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(matrix):
      axes.text(
        column,
        row,
        f'{value:.2f}',
        ha='center',
        va='center',
        color='white',
        bbox={'facecolor': 'black', 'alpha': 0.4, 'linewidth': 0},
      )
    axes.figure.colorbar(picture, ax=axes)


def plot_map(
  points: Mapping[str, np.ndarray], method: str, path: pathlib.Path
) -> None:
  """Draws pictures as points, coloured by set.

  Args:
    points: of each set, float [n, 2].
    method: that made them.
    path: of the PNG.
  """
  labels = {'xlabel': 'longitude', 'ylabel': 'latitude'}
  if method != 'UMAP':
    labels = {'xlabel': 'first component', 'ylabel': 'second component'}
  with _picture(path, title=method, **labels) as axes:
    for name, places in points.items():
      axes.scatter(*places.T, s=12, label=name)
    axes.legend()


def plot_temperatures(
  temperatures: Mapping[str, Mapping[str, Mapping[str, float]]],
  path: pathlib.Path,
) -> None:
  """Draws the masks' log temperature by layer, a line for each set.

  Args:
    temperatures: `mean` and `deviation` by set and layer.
    path: of the PNG.
  """
  labels = {'xlabel': 'modulated layer', 'ylabel': 'mean log temperature'}
  with _picture(path, **labels) as axes:
    for name, layers in temperatures.items():
      axes.errorbar(
        range(1, len(layers) + 1),
        [layer['mean'] for layer in layers.values()],
        yerr=[layer['deviation'] for layer in layers.values()],
        capsize=2,
        label=name,
      )
    axes.legend()


def plot_impact(
  rows: Sequence[Mapping[str, float]], path: pathlib.Path
) -> None:
  """Draws the impact of rain and of details by rain density.

  Args:
    rows: of `representations.impact_by_density`.
    path: of the PNG.
  """
  labels = {
    'xlabel': 'rain density from',
    'ylabel': 'intensity',
    'title': 'our own definition of both',
  }
  with _picture(path, **labels) as axes:
    densities = [row['density_from'] for row in rows]
    for key in ('rain', 'detail'):
      axes.plot(
        densities, [row[key] for row in rows], marker='o', label=f'{key}-aware'
      )
    axes.legend()
