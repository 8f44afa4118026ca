"""What a student learns from its teacher: loss terms and their modules.

A distiller is a Linen module of the outputs of student and teacher (dicts of
`logits`, `embedding` and `features`). Whatever it trains along with the student
(the decoupler, say) is part of its own variables, so an exported student has
none of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from common import distributed
from common.array_types import Array
from rsdjax import losses
from rsdjax.decoupler import Decoupler

Output = Mapping[str, Any]
STATISTICS = ('per_device', 'global')


class RSD(nn.Module):
  """Redundancy suppression between the penultimate embeddings.

  Attributes:
    weight: lambda, the weight of the loss.
    kappa: weight of the decorrelation terms inside the loss.
    expansion: gamma, hidden width of the decoupler over the student width.
    statistics: 'per_device' (as published) or 'global': the batch that the
      embeddings are standardised and correlated over.

  Source: Zhang et al., ICCV 2025, section 3.
  """

  weight: float = 0.1
  kappa: float = 0.01
  expansion: int = 2
  statistics: str = 'per_device'

  @nn.compact
  def __call__(
    self, student: Output, teacher: Output, labels: Array, *, train: bool
  ) -> Array:
    """Weighted loss of a batch, a scalar."""
    axis_name = axis_of(self.statistics)
    target = teacher['embedding']
    decoupler = Decoupler(target.shape[-1], self.expansion, axis_name)
    embedding = decoupler(student['embedding'], train=train)
    return self.weight * losses.rsd_loss(
      embedding, target, kappa=self.kappa, axis_name=axis_name
    )


class KD(nn.Module):
  """Knowledge distillation on logits.

  Attributes:
    weight: of the loss.
    temperature: divides the logits of both.

  Source: Hinton et al., 2015, section 2.
  """

  weight: float = 1.0
  temperature: float = 1.0

  def __call__(
    self, student: Output, teacher: Output, labels: Array, *, train: bool
  ) -> Array:
    """Weighted loss of a batch, a scalar."""
    per_example = losses.kd_loss(
      student['logits'], teacher['logits'], temperature=self.temperature
    )
    return self.weight * per_example.mean()


class Distiller(nn.Module):
  """The sum of several methods, term by term.

  Attributes:
    terms: modules by name.
  """

  terms: Mapping[str, nn.Module]

  def __call__(
    self, student: Output, teacher: Output, labels: Array, *, train: bool
  ) -> dict[str, Array]:
    """Weighted loss of each method.

    Args:
      student: `logits` [batch, classes], `embedding` [batch, dim] and
        `features` of the student.
      teacher: the same of the teacher; constants.
      labels: integer [batch], or class probabilities [batch, classes].
      train: update running statistics.

    Returns:
      A scalar by name; their sum is what the student learns beside its labels.
    """
    return {
      name: term(student, teacher, labels, train=train)
      for name, term in self.terms.items()
    }


_METHODS: dict[str, Callable[..., nn.Module]] = {'kd': KD, 'rsd': RSD}


def names() -> Sequence[str]:
  """Names of the methods that `create` knows."""
  return tuple(_METHODS)


def create(name: str, **options: Mapping[str, Any]) -> Distiller:
  """Builds a distiller by name.

  Args:
    name: 'none', a method of `names()`, or several joined by plus signs:
      'rsd+kd' adds their losses.
    **options: by method, its attributes: `rsd={'kappa': 0.0}`. Options of
      methods that `name` does not ask for are left unused, so that a config
      can hold them all.

  Returns:
    A module of one term per method; of none for 'none'.

  Raises:
    ValueError: unknown method or attribute, or a method named twice.
  """
  wanted = [] if name == 'none' else name.split('+')
  for method in (*wanted, *options):
    if method not in _METHODS:
      raise ValueError(
        f'distiller {method!r} must be none, one of {", ".join(_METHODS)}, or '
        'several of them joined by +'
      )
  if len(set(wanted)) < len(wanted):
    raise ValueError(f'distiller {name!r} names a method twice')
  return Distiller({m: _build(m, options.get(m, {})) for m in wanted})


def axis_of(statistics: str) -> str | None:
  """The device axis that 'per_device' or 'global' statistics are taken over."""
  if statistics not in STATISTICS:
    raise ValueError(
      f'statistics {statistics!r} must be one of {", ".join(STATISTICS)}'
    )
  return distributed.AXIS_NAME if statistics == 'global' else None


def _build(method: str, options: Mapping[str, Any]) -> nn.Module:
  valid = [
    field
    for field in _METHODS[method].__dataclass_fields__  # type: ignore[attr-defined]
    if field not in ('parent', 'name')
  ]
  for option in options:
    if option not in valid:
      raise ValueError(
        f'distiller {method!r} has no option {option!r}; its options are '
        f'{", ".join(valid)}'
      )
  return _METHODS[method](**options)
