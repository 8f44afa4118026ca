"""What distillation changes inside: CKA between stages, and correlations.

`python -m rsdjax.analysis --config FILE --checkpoint RUN --output FOLDER`
compares the student of a run with its teacher on test pictures, before and
after training: a number and a picture each.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, IO

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from common import commands, image_ops
from common.array_types import (
  Array,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_batch,
  require_same_shape,
  Variables,
)
from common.checkpoints import Checkpoints
from common.data import pipeline
from common.train_state import TrainState
from rsdjax import experiment, losses
from rsdjax.decoupler import Decoupler

Features = Array | np.ndarray


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

  gram_a, gram_b = gram(a), gram(b)
  trace = (gram_a * gram_b).sum()
  totals = gram_a.sum() * gram_b.sum() / ((n - 1) * (n - 2))
  crossed = (gram_a.sum(axis=0) * gram_b.sum(axis=0)).sum() * 2 / (n - 2)
  return (trace + totals - crossed) / (n * (n - 3))


def linear_cka(batches: Iterable[tuple[Features, Features]]) -> float:
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

  Source: Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?",
  ICLR 2021, section 3; Kornblith et al., ICML 2019.
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


def make_feature_step(
  parts: experiment.Experiment,
) -> Callable[[TrainState, Array], dict[str, dict[str, Array]]]:
  """Builds the features of student and teacher of a batch of pictures.

  Args:
    parts: of a run with a teacher.

  Returns:
    A jitted function of a state and images; gives, for `student` and
    `teacher`, `stage1`, ... pooled over space to float [batch, dim] and
    `embedding`; for the student also `decoupled`, the embedding that RSD
    compares (with the statistics of this batch, as in training), where the
    distiller has a decoupler.
  """
  moments = {'mean': parts.dataset.mean, 'std': parts.dataset.std}

  def pooled(output: Mapping[str, Any]) -> dict[str, Array]:
    stages = {
      f'stage{i}': x.mean(axis=tuple(range(1, x.ndim - 1)))
      for i, x in enumerate(output['features'], 1)
    }
    return stages | {'embedding': output['embedding']}

  @jax.jit
  def step(
    teacher_variables: Variables, state: TrainState, images: Array
  ) -> dict[str, dict[str, Array]]:
    assert parts.teacher is not None
    images = image_ops.normalize(images, **moments)
    variables = experiment.student_variables(state)
    student: Any = parts.student.apply(variables, images, features=True)
    teacher: Any = parts.teacher.apply(teacher_variables, images, features=True)
    found = {'student': pooled(student), 'teacher': pooled(teacher)}
    decoupler = state.params['distiller'].get('terms_rsd', {}).get('aad')
    if decoupler is not None:
      module = Decoupler(
        teacher['embedding'].shape[-1],
        decoupler['expand']['kernel'].shape[1]
        // student['embedding'].shape[-1],
      )
      statistics = state.model_state['distiller']['batch_stats']
      found['student']['decoupled'], _ = module.apply(
        {'params': decoupler, 'batch_stats': statistics['terms_rsd']['aad']},
        student['embedding'],
        train=True,
        mutable=['batch_stats'],
      )
    return found

  # As a constant, the teacher would be compiled into the program.
  return functools.partial(step, parts.teacher_variables)


def cka_table(
  batches: Sequence[Mapping[str, Mapping[str, np.ndarray]]],
) -> dict[str, dict[str, float]]:
  """Linear CKA of every stage of a student with every stage of its teacher.

  Args:
    batches: as `make_feature_step` gives them.

  Returns:
    CKA by student stage and teacher stage.
  """

  def names(network: str) -> list[str]:
    """Stages first, then what comes of the last; jit has sorted them."""
    last = ('embedding', 'decoupled')
    features = set(batches[0][network])
    stages = sorted(features.difference(last))
    return stages + [name for name in last if name in features]

  return {
    own: {
      other: linear_cka(
        (batch['student'][own], batch['teacher'][other]) for batch in batches
      )
      for other in names('teacher')
    }
    for own in names('student')
  }


def embedding_correlation(
  batches: Sequence[Mapping[str, Mapping[str, np.ndarray]]],
) -> Array | None:
  """Cross-correlation of decoupled student and teacher embeddings.

  Args:
    batches: as `make_feature_step` gives them.

  Returns:
    Float [dim, dim] over all pictures; None where there is no decoupler and
    the embeddings differ in width.
  """
  own = 'decoupled' if 'decoupled' in batches[0]['student'] else 'embedding'
  student = np.concatenate([batch['student'][own] for batch in batches])
  teacher = np.concatenate([b['teacher']['embedding'] for b in batches])
  if student.shape != teacher.shape:
    return None
  return losses.cross_correlation(student, teacher)


def plot_matrices(
  matrices: Mapping[str, np.ndarray],
  path: pathlib.Path | IO[bytes],
  *,
  labels: tuple[Sequence[str], Sequence[str]] | None = None,
  limits: tuple[float, float] = (-1.0, 1.0),
) -> None:
  """Draws matrices of one kind side by side, as heat maps of one scale.

  Args:
    matrices: by title, float [rows, columns].
    path: of the PNG, or a file to write it to.
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
  checkpoint: str | pathlib.Path,
  output: str | pathlib.Path,
) -> dict[str, dict[str, Any]]:
  """Compares a student with its teacher before and after training.

  Args:
    config: of the run; "before" is the first state that it builds.
    checkpoint: folder of the run; "after" is its last checkpoint.
    output: folder; gets `analysis.json`, `cka.png` and, where embeddings can
      be correlated, `correlation.png`.

  Returns:
    For `before` and `after`: `cka` by student stage and teacher stage, and
    `correlation`, the `correlation_summary` or None.

  Raises:
    FileNotFoundError: there is no checkpoint, or no teacher.
    ValueError: the run has no teacher, or files do not fit.
  """
  if config.distiller.name == 'none':
    raise ValueError("config.distiller.name is 'none': there is no teacher")
  checkpoint, output = pathlib.Path(checkpoint), pathlib.Path(output)
  parts = experiment.build(
    config, config.teacher.checkpoint or checkpoint / 'teacher'
  )
  states = {'before': parts.initial_state()}
  with Checkpoints(checkpoint) as checkpoints:
    states['after'] = checkpoints.read()
  step = make_feature_step(parts)
  output.mkdir(parents=True, exist_ok=True)
  result: dict[str, dict[str, Any]] = {}
  maps, correlations = {}, {}
  for title, state in states.items():
    batches = []
    for batch in pipeline.evaluation_batches(
      parts.dataset.test,
      parts.dataset.eval_transform,
      batch_size=config.eval.batch_size,
    ):
      real = batch['mask'] > 0
      if real.sum() >= 4:  # Fewer have no unbiased estimate.
        images = jnp.asarray(batch['image'])
        found = jax.device_get(step(state, images))
        batches.append(jax.tree.map(lambda x, real=real: x[real], found))
    cka = cka_table(batches)
    maps[title] = np.array([list(row.values()) for row in cka.values()])
    correlation = embedding_correlation(batches)
    summary = None
    if correlation is not None:
      correlations[title] = np.asarray(correlation).T
      summary = {
        name: float(value)
        for name, value in correlation_summary(correlation).items()
      }
    result[title] = {'cka': cka, 'correlation': summary}
  labels = (list(cka), list(cka['embedding']))
  plot_matrices(maps, output / 'cka.png', labels=labels, limits=(0.0, 1.0))
  if correlations:
    plot_matrices(correlations, output / 'correlation.png')
  (output / 'analysis.json').write_text(json.dumps(result, indent=2) + '\n')
  return result


def main() -> None:
  """Runs `analyse` on the flags and prints its main numbers."""
  values = flags.FLAGS
  result = analyse(values.config, values.checkpoint, values.output)
  for title, found in result.items():
    print(f'{title} training:')
    print(
      f'  CKA of the embeddings {found["cka"]["embedding"]["embedding"]:.4f}'
    )
    for name, value in (found['correlation'] or {}).items():
      print(f'  correlation, {name} {value:.4f}')
  print(f'all numbers, and pictures: {values.output}')


if __name__ == '__main__':
  commands.define_config_flag()
  flags.DEFINE_string('checkpoint', None, 'Run folder.')
  flags.DEFINE_string('output', None, 'Folder for numbers and pictures.')
  flags.mark_flags_as_required(['checkpoint', 'output'])
  commands.run(main)
