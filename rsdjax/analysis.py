"""What distillation changes inside: CKA between stages, and correlations.

`python -m rsdjax.analysis --config FILE --before MODEL --after MODEL --teacher
MODEL --output FOLDER` compares a student with its teacher on test pictures,
before and after training: a number and a picture each.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from common import compilation_cache, configuration, console, image_ops
from common.array_types import (
  Array,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_batch,
  require_same_shape,
)
from common.data import datasets, pipeline
from rsdjax import losses, train


@jax.jit
def hsic(a: Array, b: Array) -> Array:
  """Unbiased estimate of the linear Hilbert-Schmidt independence criterion.

  Args:
    a: features of the pictures, float [batch, dim_a], batch >= 4.
    b: other features of the same pictures, float [batch, dim_b].

  Returns:
    Scalar, float32; it can be negative.

  Raises:
    ValueError: batch sizes differ or are below 4, or arrays are not floating
      [batch, dim].

  Source: Song et al., "Feature Selection via Dependence Maximization", JMLR
  2012, equation 5.
  """
  require_rank(2, a=a, b=b)
  require_floating(a=a, b=b)
  require_same_batch(a=a, b=b)
  n = len(a)
  if n < 4:
    raise ValueError(f'a {list(a.shape)} must hold at least 4 examples')

  def gram(x: Array) -> Array:
    x = at_least_float32(x)
    # The estimate does not depend on the mean; float32 sums do.
    x -= x.mean(axis=0, keepdims=True)
    return jnp.where(jnp.eye(n, dtype=bool), 0.0, x @ x.T)

  k, l = gram(a), gram(b)
  trace = (k * l).sum()
  totals = k.sum() * l.sum() / ((n - 1) * (n - 2))
  crossed = (k.sum(axis=0) * l.sum(axis=0)).sum() * 2 / (n - 2)
  return (trace + totals - crossed) / (n * (n - 3))


def linear_cka(batches: Iterable[tuple[Array, Array]]) -> float:
  """Linear CKA between two kinds of features, over minibatches.

  Numerator and denominators are means of unbiased estimates over the batches,
  so the result does not depend on the batch size.

  Args:
    batches: pairs of features of the same pictures, float [batch, dim_a] and
      [batch, dim_b].

  Returns:
    At most 1 up to noise; 0 for unrelated features.

  Raises:
    ValueError: there is no batch, or as `hsic`.

  Source: Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR
  2021, section 3; Kornblith et al., ICML 2019.
  """
  sums = np.zeros(3)
  for a, b in batches:
    sums += [float(hsic(*pair)) for pair in ((a, b), (a, a), (b, b))]
  if not sums.any():
    raise ValueError('there is no batch')
  return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def correlation_summary(correlation: Array) -> dict[str, Array]:
  """How far a cross-correlation matrix is from the identity.

  Args:
    correlation: float [dim, dim], from `losses.cross_correlation`.

  Returns:
    `diagonal`, the mean of the diagonal, and `off_diagonal`, the mean size of
    the other entries.

  Raises:
    ValueError: the matrix is not square.
  """
  require_rank(2, correlation=correlation)
  require_same_shape(correlation=correlation, transposed=correlation.T)
  others = ~jnp.eye(len(correlation), dtype=bool)
  return {
    'diagonal': jnp.diagonal(correlation).mean(),
    'off_diagonal': jnp.abs(correlation).mean(where=others),
  }


def stage_features(
  path: str, config: ml_collections.ConfigDict
) -> list[dict[str, np.ndarray]]:
  """Features of a network on the test split, batch by batch.

  Args:
    path: an exported model.
    config: its `data` and `eval` blocks say which pictures.

  Returns:
    Per batch, `stage1`, ... pooled over space to float [batch, dim], and
    `embedding`; padding left out.

  Raises:
    FileNotFoundError: no such model.
    ValueError: the model or the data are damaged.
  """
  dataset = datasets.classification(**config.data)
  network, variables, _ = experiment.load_network(path)

  @jax.jit
  def features_of(images: Array) -> dict[str, Array]:
    images = image_ops.normalize(images, mean=dataset.mean, std=dataset.std)
    output = network.apply(variables, images, train=False, features=True)
    pooled = {
      f'stage{i}': x.mean(axis=tuple(range(1, x.ndim - 1)))
      for i, x in enumerate(output['features'], 1)
    }
    return pooled | {'embedding': output['embedding']}

  batches = pipeline.evaluation_batches(
    dataset.test, dataset.eval_transform, batch_size=config.eval.batch_size
  )
  found = []
  for batch in batches:
    real = batch['mask'] > 0
    if real.sum() >= 4:  # Fewer have no unbiased estimate.
      features = jax.device_get(features_of(batch['image']))
      found.append({name: x[real] for name, x in features.items()})
  return found


def cka_table(
  student: Sequence[Mapping[str, np.ndarray]],
  teacher: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, dict[str, float]]:
  """Linear CKA of every stage of a student with every stage of a teacher.

  Args:
    student: from `stage_features`.
    teacher: from `stage_features`, of the same pictures.

  Returns:
    CKA by student stage and teacher stage.
  """
  return {
    own: {
      other: linear_cka(
        (a[own], b[other]) for a, b in zip(student, teacher, strict=True)
      )
      for other in teacher[0]
    }
    for own in student[0]
  }


def embedding_correlation(
  student: Sequence[Mapping[str, np.ndarray]],
  teacher: Sequence[Mapping[str, np.ndarray]],
) -> Array | None:
  """Cross-correlation of the embeddings over all pictures.

  Args:
    student: from `stage_features`.
    teacher: from `stage_features`, of the same pictures.

  Returns:
    Float [dim, dim]; None where the embeddings differ in width, since the
    decoupler that joins them is not part of an exported student.
  """
  own, target = (
    np.concatenate([batch['embedding'] for batch in batches])
    for batches in (student, teacher)
  )
  if own.shape != target.shape:
    return None
  return losses.cross_correlation(own, target)


def plot_matrices(
  matrices: Mapping[str, np.ndarray],
  path: pathlib.Path,
  *,
  labels: tuple[Sequence[str], Sequence[str]] | None = None,
  limits: tuple[float, float] = (-1.0, 1.0),
) -> None:
  """Draws matrices of one kind side by side, as heat maps of one scale.

  Args:
    matrices: by title, float [rows, columns].
    path: of the PNG.
    labels: names of the rows and of the columns.
    limits: values of the ends of the colour scale.
  """
  from matplotlib import figure  # Half a second of import, only for figures.

  canvas = figure.Figure(
    figsize=(4.5 * len(matrices) + 1, 4), layout='constrained'
  )
  grid = canvas.subplots(1, len(matrices), squeeze=False)[0]
  for axes, (title, matrix) in zip(grid, matrices.items(), strict=True):
    picture = axes.imshow(matrix, vmin=limits[0], vmax=limits[1])
    axes.set_title(title)
    if labels is not None:
      axes.set_yticks(range(len(labels[0])), labels[0])
      axes.set_xticks(range(len(labels[1])), labels[1], rotation=45)
    axes.set(xlabel='teacher', ylabel='student')
  canvas.colorbar(picture, ax=list(grid))
  canvas.savefig(path, dpi=150)


def analyse(
  config: ml_collections.ConfigDict,
  students: Mapping[str, str],
  teacher: str,
  output: str | pathlib.Path,
) -> dict[str, dict[str, object]]:
  """Compares students with their teacher, and draws the comparison.

  Args:
    config: its `data` and `eval` blocks say which pictures.
    students: exported models by title, 'before' and 'after' say.
    teacher: exported model.
    output: folder; gets `analysis.json`, `cka.png` and, where the embeddings
      are of one width, `correlation.png`.

  Returns:
    By title: `cka` by stage and teacher stage, and `correlation`, the
    `correlation_summary` or None.

  Raises:
    FileNotFoundError: no such model.
    ValueError: a model or the data are damaged.
  """
  output = pathlib.Path(output)
  output.mkdir(parents=True, exist_ok=True)
  target = stage_features(teacher, config)
  result: dict[str, dict[str, object]] = {}
  maps, correlations = {}, {}
  labels: tuple[list[str], list[str]] = ([], list(target[0]))
  for title, path in students.items():
    own = stage_features(path, config)
    cka = cka_table(own, target)
    labels = (list(own[0]), labels[1])
    maps[title] = np.array([list(row.values()) for row in cka.values()])
    correlation = embedding_correlation(own, target)
    summary = None
    if correlation is not None:
      correlations[title] = np.asarray(correlation).T
      summary = {
        name: float(value)
        for name, value in correlation_summary(correlation).items()
      }
    result[title] = {'cka': cka, 'correlation': summary}
  plot_matrices(maps, output / 'cka.png', labels=labels, limits=(0.0, 1.0))
  if correlations:
    plot_matrices(correlations, output / 'correlation.png')
  (output / 'analysis.json').write_text(json.dumps(result, indent=2) + '\n')
  return result


def main(arguments: Sequence[str]) -> None:
  """Runs `analyse` on the flags and prints the diagonal of the tables."""
  if len(arguments) > 1:
    raise app.UsageError(f'unexpected arguments: {" ".join(arguments[1:])}')
  console.configure()
  compilation_cache.enable()
  values = flags.FLAGS
  students = {'before': values.before, 'after': values.after}
  result = analyse(
    values.config,
    {title: path for title, path in students.items() if path},
    values.teacher,
    values.output,
  )
  print(json.dumps(result, indent=2))


if __name__ == '__main__':
  config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument after a colon.'
  )
  flags.DEFINE_string('before', '', 'Exported student before distillation.')
  flags.DEFINE_string('after', None, 'Exported student.')
  flags.DEFINE_string('teacher', None, 'Exported teacher.')
  flags.DEFINE_string('output', None, 'Folder for numbers and pictures.')
  flags.mark_flags_as_required(['config', 'after', 'teacher', 'output'])
  app.run(main, flags_parser=configuration.parse_flags)
