"""What a student learns from its teacher: one method, or several summed.

A method is a Linen module of the outputs of student and teacher (dicts of
`logits`, `embedding` and `features`) and the batch, and gives one scalar.
Whatever it trains along with the student (a decoupler, projectors) or remembers
(memory banks) lies in its own variables, so an exported student has none of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from common import distributed
from common.array_types import Array, Batch
from rsdjax import methods
from rsdjax.methods import Method, Output


class Distiller(nn.Module):
  """The sum of several methods, term by term.

  Attributes:
    terms: methods by name.
  """

  terms: Mapping[str, Method]

  @property
  def needs_index(self) -> bool:
    """Whether the batch must hold the `index` of each example."""
    return any(isinstance(term, methods.CRD) for term in self.terms.values())

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> dict[str, Array]:
    """Weighted loss of each method.

    Args:
      student: `logits` [batch, classes], `embedding` [batch, dim] and
        `features` of the student.
      teacher: the same of the teacher; constants.
      batch: `label`, int [batch] or class probabilities [batch, classes], and
        `index`, int [batch], where `needs_index`.
      train: update running statistics.

    Returns:
      A scalar by name; their sum is what the student learns beside its labels.
    """
    return {
      name: term.weight * term(student, teacher, batch, train=train)
      for name, term in self.terms.items()
    }


_METHODS: dict[str, type[Method]] = {
  'bkd': methods.BinaryKD,
  'cc': methods.CC,
  'crd': methods.CRD,
  'dist': methods.DIST,
  'dkd': methods.DKD,
  'fitnet': methods.FitNet,
  'kd': methods.KD,
  'ofa': methods.OFA,
  'rkd': methods.RKD,
  'rsd': methods.RSD,
  'rsd_logits': methods.RSDLogits,
}


def names() -> tuple[str, ...]:
  """Names of the methods that `create` knows."""
  return tuple(_METHODS)


def options(method: str) -> dict[str, Any]:
  """Options of a method, with their defaults.

  Args:
    method: one of `names()`.

  Returns:
    Default by name: what a config's `distiller.METHOD` block may hold.

  Raises:
    ValueError: unknown method.
  """
  _require_known([method])
  context = {f.name for f in dataclasses.fields(Method)} - {'weight'}
  return {
    field.name: field.default
    for field in dataclasses.fields(_METHODS[method])
    if field.name not in context | {'parent', 'name'}
  }


def create(
  name: str,
  *,
  axis_name: str | None = distributed.AXIS_NAME,
  student_prefix_tokens: int = 0,
  teacher_prefix_tokens: int = 0,
  train_labels: Callable[[], np.ndarray] | None = None,
  **method_options: Mapping[str, Any],
) -> Distiller:
  """Builds a distiller by name.

  Args:
    name: 'none', a method of `names()`, or several joined by plus signs:
      'rsd+kd' adds their losses.
    axis_name: device axis that the step is mapped over; None on one device.
    student_prefix_tokens: class tokens in front of the student's features.
    teacher_prefix_tokens: class tokens in front of the teacher's features.
    train_labels: gives the class of every training example, for 'crd'.
    **method_options: by method, its options: `rsd={'kappa': 0.0}`. Those of
      methods that `name` does not ask for are checked and left unused, so that
      a config can hold them all.

  Returns:
    A module of one term per method; of none for 'none'.

  Raises:
    ValueError: unknown method or option, or a method named twice.
  """
  wanted = [] if name == 'none' else name.split('+')
  _require_known([*wanted, *method_options])
  if len(set(wanted)) < len(wanted):
    raise ValueError(f'distiller {name!r} names a method twice')
  for method, given in method_options.items():
    valid = options(method)
    for option in given:
      if option not in valid:
        raise ValueError(
          f'distiller {method!r} has no option {option!r}; its options are '
          f'{", ".join(valid)}'
        )
    if 'statistics' in given:
      distributed.require_statistics(given['statistics'])
  terms = {
    method: _METHODS[method](
      axis_name=axis_name,
      student_prefix_tokens=student_prefix_tokens,
      teacher_prefix_tokens=teacher_prefix_tokens,
      train_labels=train_labels,
      **method_options.get(method, {}),
    )
    for method in wanted
  }
  return Distiller(terms)


def _require_known(names: Sequence[str]) -> None:
  for method in names:
    if method not in _METHODS:
      raise ValueError(
        f'distiller {method!r} must be none, one of {", ".join(_METHODS)}, or '
        'several of them joined by +'
      )
