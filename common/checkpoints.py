"""Checkpoints of a run, and exported models.

A run keeps its last states and the best one (Orbax), with the data position and
the time spent, and goes on from the last. A model that leaves the run is one
safetensors file: its variables, and in the header how it is built.
"""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from jax.experimental import multihost_utils
from safetensors import numpy as safetensors_numpy
from safetensors import safe_open, SafetensorError

from common import distributed
from common.array_types import PyTree, Variables
from common.digests import Digests, Saving
from common.train_state import TrainState
from common.weight_conversion import flatten, unflatten
from common.whole_files import written_whole

Progress = dict[str, Any]

_LOGGER = logging.getLogger(__name__)


class AnotherModelError(ValueError):
  """Variables have other names or shapes than the model's."""


@contextlib.contextmanager
def _named_save(step: int, folder: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # Of Orbax, TensorStore or the file system.
    raise OSError(
      f'the checkpoint of step {step} could not be saved in {folder}; older '
      f'ones stay as they are: {error}'
    ) from error


class Checkpoints:
  """The checkpoints of one run folder; a context manager.

  The last two states are kept, so that there is one to go back to if the last
  is damaged, and the best one. Beside them lies `digests.json`: size and
  checksum of each of their files.
  """

  def __init__(
    self, workdir: str | pathlib.Path, *, best_metric: str | None = None
  ):
    """Opens `workdir`/checkpoints, and makes it if need be.

    Args:
      workdir: the run folder.
      best_metric: name of the evaluation score whose maximum is kept beside
        the last states; None keeps these alone.
    """
    policies = ocp.training.preservation_policies
    kept: list[Any] = [policies.LatestN(2)]
    if best_metric:
      kept.append(
        policies.BestN(
          n=1,
          get_metric_fn=lambda scores: scores[best_metric],
          keep_checkpoints_without_metrics=False,
        )
      )
    self._best_metric = best_metric
    self._folder = pathlib.Path(workdir).absolute() / 'checkpoints'
    self._digests = Digests(self._folder)
    self._saving: Saving | None = None
    self._checkpointer = ocp.training.Checkpointer(
      self._folder,
      preservation_policy=policies.AnyPreservationPolicy(kept),
      cleanup_tmp_directories=True,
    )

  def __enter__(self) -> Self:
    """The manager itself."""
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    """Waits for the last save; an error of it does not hide another one."""
    try:
      self.wait()
    except OSError:
      if kind is None:
        raise
    finally:
      self._checkpointer.close()

  @property
  def last_step(self) -> int | None:
    """Step of the last checkpoint, or None."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  @property
  def best_step(self) -> int | None:
    """Step of the checkpoint with the best score, or None."""
    scored = [c for c in self._checkpointer.checkpoints if c.metrics]
    if not scored or self._best_metric is None:
      return None
    return max(scored, key=lambda c: c.metrics[self._best_metric]).step

  def save(
    self,
    step: int,
    state: TrainState,
    progress: Progress,
    scores: Mapping[str, float] | None = None,
  ) -> None:
    """Saves in the background; a save that is under way is waited for.

    Args:
      step: steps done.
      state: state of the run.
      progress: nested dict of numbers: data position, time, last scores.
      scores: evaluation scores of this state, if it was evaluated.

    Raises:
      OSError: this save, or the one before, failed; older checkpoints stay.
    """
    self.wait()
    with _named_save(step, self._folder):
      response = self._checkpointer.save_checkpointables_async(
        step,
        {'state': state, 'progress': progress},
        metrics=dict(scores) if scores else None,
        force=True,
        overwrite=True,
      )
    self._saving = Saving(step, response, self._digests)

  def wait(self) -> None:
    """Waits for the save that is under way.

    Raises:
      OSError: it failed; older checkpoints stay.
    """
    saving, self._saving = self._saving, None
    if saving is not None:
      with _named_save(saving.step, self._folder):
        saving.result()

  def restore(
    self, like: TrainState, step: int | None = None
  ) -> tuple[TrainState, Progress]:
    """Reads a checkpoint back, onto the devices of `like`.

    Args:
      like: a state of the same structure, shapes and shardings.
      step: which one; the last by default. If the last is damaged, a warning
        says how, it is moved to the folder `damaged` of the run, and the one
        before is read.

    Returns:
      The state and the progress.

    Raises:
      OSError: none can be read; says what is wrong with each.
      ValueError: the checkpoint is of another model or optimiser; the message
        names the parameters that differ.
    """
    self.wait()
    if step is not None:
      return self._load(like, step)
    problems = []
    while (last := self.last_step) is not None:
      problem = self._damage(last)
      if problem is None:
        try:
          return self._load(like, last)
        except AnotherModelError:
          raise
        except Exception as error:  # Any file can be broken in any way.
          if jax.process_count() > 1:
            raise
          problem = f'{type(error).__name__}: {error}'
      problems.append(f'the checkpoint of step {last} is damaged: {problem}')
      self._set_aside(last)
      _LOGGER.warning(
        '%s; it is now in %s', problems[-1], self._folder.parent / 'damaged'
      )
    raise OSError(
      f'{self._folder} has no checkpoint that can be read: '
      + '; '.join(problems or ['it is empty'])
    )

  def _load(self, like: TrainState, step: int) -> tuple[TrainState, Progress]:
    found = self._checkpointer.checkpointables_metadata(step).metadata
    if not found.get('state'):
      raise OSError('it does not say what is in it')
    _require_same_tree(
      _shapes(found['state']),
      _shapes(jax.eval_shape(lambda: _raw_keys(like))),
      str(self._folder),
    )
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      like,
    )
    loaded = self._checkpointer.load_checkpointables(
      step, {'state': abstract, 'progress': None}
    )
    return loaded['state'], loaded['progress']

  def _damage(self, step: int) -> str | None:
    """What process 0 finds wrong with a checkpoint, on all processes."""
    problem = None
    if jax.process_index() == 0:
      problem = self._digests.damage(step)
    if jax.process_count() > 1:
      broken = multihost_utils.broadcast_one_to_all(problem is not None)
      problem = problem or ('see process 0' if broken else None)
    return problem

  def _set_aside(self, step: int) -> None:
    """Moves a checkpoint out of the way, and keeps it."""
    if jax.process_index() == 0:
      aside = self._folder.parent / 'damaged'
      aside.mkdir(exist_ok=True)
      number = sum(1 for _ in aside.glob(f'{step}-*'))
      os.replace(self._folder / str(step), aside / f'{step}-{number}')
    distributed.wait_for_all(f'damaged_{step}')
    self._checkpointer.reload()

  def read(self, which: str = 'last') -> TrainState:
    """Reads a state without knowing its structure, as NumPy arrays.

    Args:
      which: 'last' or 'best'.

    Returns:
      The state; its optimiser state is of plain containers.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: neither 'last' nor 'best'.
    """
    if which not in ('last', 'best'):
      raise ValueError(f"checkpoint {which!r} must be 'last' or 'best'")
    step = self.last_step if which == 'last' else self.best_step
    if step is None:
      raise FileNotFoundError(
        f'{self._checkpointer.directory} has no {which} checkpoint'
      )
    metadata = self._checkpointer.checkpointables_metadata(step).metadata
    abstract = jax.tree.map(
      lambda x: np.empty(x.shape, x.dtype),
      metadata['state'],
      is_leaf=lambda x: hasattr(x, 'shape'),
    )
    loaded = self._checkpointer.load_checkpointables(step, {'state': abstract})
    return TrainState(**loaded['state'])


def export_model(
  path: str | pathlib.Path, variables: Variables, description: Mapping[str, Any]
) -> None:
  """Writes a model's variables and description to one safetensors file.

  Args:
    path: the file; its folder must exist. It is replaced as a whole or not at
      all.
    variables: as from `Module.init`.
    description: what builds the model again, JSON-able: the arguments of
      `create`, normalisation, scores.
  """
  flat = flatten(jax.device_get(variables))
  # `ascontiguousarray` would make scalars vectors.
  arrays = {k: np.asarray(v, order='C') for k, v in flat.items()}
  data = safetensors_numpy.save(
    arrays, metadata={'description': json.dumps(dict(description))}
  )
  with written_whole(path) as partial:
    partial.write_bytes(data)


def load_model(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads a file that `export_model` wrote.

  Args:
    path: the file.

  Returns:
    Variables (nested dicts of NumPy arrays) and the description.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a safetensors file, cut off, or not one of ours.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'model file {path} is not there')
  try:
    with safe_open(str(path), framework='np') as file:
      metadata = file.metadata() or {}
      flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except SafetensorError as error:
    raise ValueError(
      f'{path} is not a whole safetensors file: {error}'
    ) from error
  if 'description' not in metadata:
    raise ValueError(
      f'{path} has no description of a model: it was not exported by this '
      'library (convert published weights first)'
    )
  return unflatten(flat), json.loads(metadata['description'])


def describes_model(path: str | pathlib.Path) -> bool:
  """Whether a file is one that `export_model` wrote, by its header."""
  path = pathlib.Path(path)
  if path.suffix != '.safetensors':
    return False
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    header = file.read(min(length, 10**8))
  return b'"description"' in header


def require_same_variables(
  variables: Variables, expected: Variables, source: str
) -> None:
  """Raises ValueError, naming what differs, unless shapes and names agree.

  Args:
    variables: loaded variables.
    expected: variables of the model, or their `jax.eval_shape`.
    source: where the loaded ones are from, for the message.
  """
  _require_same_tree(_shapes(variables), _shapes(expected), source)


def _raw_keys(tree: PyTree) -> PyTree:
  """Random keys as they are stored: as their uint32 data."""
  return jax.tree.map(
    lambda x: (
      jax.random.key_data(x)
      if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
      else x
    ),
    tree,
  )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda x: hasattr(x, 'shape')
  )
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in leaves
  }


def _require_same_tree(
  found: Mapping[str, tuple[int, ...]],
  expected: Mapping[str, tuple[int, ...]],
  source: str,
) -> None:
  missing = sorted(expected.keys() - found.keys())
  surplus = sorted(found.keys() - expected.keys())
  reshaped = [
    f'{name} has shape {list(found[name])}, expected {list(shape)}'
    for name, shape in sorted(expected.items())
    if name in found and found[name] != shape
  ]
  problems = [f'{name} is missing' for name in missing]
  problems += [f'{name} is not part of the model' for name in surplus]
  problems += reshaped
  if problems:
    shown = '; '.join(problems[:5])
    more = f'; and {len(problems) - 5} more' if len(problems) > 5 else ''
    raise AnotherModelError(f'{source} is of another model: {shown}{more}')
