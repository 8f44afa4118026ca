"""What a student learns from its teacher: loss terms and their modules.

A method is a Linen module of the outputs of student and teacher (dicts of
`logits`, `embedding` and `features`) and the batch, and gives one scalar.
Whatever it trains along with the student (a decoupler, projectors) or remembers
(memory banks) lies in its own variables, so an exported student has none of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from common import distributed
from common.array_types import Array, Batch
from rsdjax import losses
from rsdjax.decoupler import Decoupler

Output = Mapping[str, Any]
STATISTICS = ('per_device', 'global')
DECOUPLERS = ('aad', 'linear', 'none')


class Method(nn.Module):
  """Base of the methods.

  Attributes:
    weight: factor of the whole loss.
    axis_name: device axis that the step is mapped over; None on one device.
    student_prefix_tokens: class tokens in front of the student's features.
    teacher_prefix_tokens: class tokens in front of the teacher's features.
    train_labels: gives the class of every training example, int [examples].
  """

  weight: float = 1.0
  axis_name: str | None = None
  student_prefix_tokens: int = 0
  teacher_prefix_tokens: int = 0
  train_labels: Callable[[], Array] | None = None

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    raise NotImplementedError

  def _axis_of(self, statistics: str) -> str | None:
    """Device axis of 'per_device' or 'global' statistics."""
    require_statistics(statistics)
    # Variables are initialised outside of any device axis.
    if statistics == 'per_device' or self.is_initializing():
      return None
    return self.axis_name


class RSD(Method):
  """Redundancy suppression between the penultimate embeddings.

  Attributes:
    weight: lambda, the weight of the loss.
    kappa: weight of the decorrelation terms inside the loss.
    expansion: gamma, hidden width of the decoupler over the student width.
    statistics: 'per_device' (as published) or 'global': the batch that the
      embeddings are standardised and correlated over.
    decoupler: 'aad' as published, 'linear' for a bare linear map, 'none' for
      the student's own embedding, which must be as wide as the teacher's.

  Source: Zhang et al., ICCV 2025, section 3.
  """

  weight: float = 0.1
  kappa: float = 0.01
  expansion: int = 2
  statistics: str = 'per_device'
  decoupler: str = 'aad'

  @nn.compact
  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    axis_name = self._axis_of(self.statistics)
    embedding, target = student['embedding'], teacher['embedding']
    width = target.shape[-1]
    if self.decoupler == 'aad':
      embedding = Decoupler(width, self.expansion, axis_name)(
        embedding, train=train
      )
    elif self.decoupler == 'linear':
      embedding = nn.Dense(width, use_bias=False, name='linear')(embedding)
    elif self.decoupler != 'none':
      raise ValueError(
        f'decoupler {self.decoupler!r} must be one of {", ".join(DECOUPLERS)}'
      )
    return losses.rsd_loss(
      embedding, target, kappa=self.kappa, axis_name=axis_name
    )


class RSDLogits(Method):
  """Redundancy suppression between the raw logits, without a decoupler.

  Attributes:
    weight: of the loss; the published value is not known.
    kappa: weight of the decorrelation terms inside the loss.
    statistics: as `RSD`.

  Source: Zhang et al., ICCV 2025, the ablation on logits.
  """

  weight: float = 0.1
  kappa: float = 0.01
  statistics: str = 'per_device'

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    return losses.rsd_loss(
      student['logits'],
      teacher['logits'],
      kappa=self.kappa,
      axis_name=self._axis_of(self.statistics),
    )


class KD(Method):
  """Knowledge distillation, see `losses.kd_loss`.

  Attributes:
    temperature: divides the logits of both.
  """

  temperature: float = 1.0

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    return losses.kd_loss(
      student['logits'], teacher['logits'], temperature=self.temperature
    ).mean()


class BinaryKD(Method):
  """Class by class distillation, see `losses.binary_kd_loss`."""

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    return losses.binary_kd_loss(student['logits'], teacher['logits']).mean()


class DKD(Method):
  """Decoupled knowledge distillation, see `losses.dkd_loss`.

  Attributes:
    alpha: weight of the target class term.
    beta: weight of the term of the other classes.
    temperature: divides the logits of both.
  """

  alpha: float = 1.0
  beta: float = 2.0
  temperature: float = 1.0

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    return losses.dkd_loss(
      student['logits'],
      teacher['logits'],
      batch['label'],
      alpha=self.alpha,
      beta=self.beta,
      temperature=self.temperature,
    ).mean()


class DIST(Method):
  """Correlation of predictions, see `losses.dist_loss`.

  Attributes:
    beta: weight of the inter-class term.
    gamma: weight of the intra-class term.
    temperature: divides the logits of both.
    statistics: as `RSD`.
  """

  beta: float = 1.0
  gamma: float = 1.0
  temperature: float = 1.0
  statistics: str = 'per_device'

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    return losses.dist_loss(
      student['logits'],
      teacher['logits'],
      beta=self.beta,
      gamma=self.gamma,
      temperature=self.temperature,
      axis_name=self._axis_of(self.statistics),
    )


class RKD(Method):
  """Relations of examples, see `losses.rkd_loss`; within each device's batch.

  Attributes:
    distance_weight: weight of the distances.
    angle_weight: weight of the angles.
  """

  distance_weight: float = 25.0
  angle_weight: float = 50.0

  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    return losses.rkd_loss(
      student['embedding'],
      teacher['embedding'],
      distance_weight=self.distance_weight,
      angle_weight=self.angle_weight,
    )


class CC(Method):
  """Correlation congruence, see `losses.cc_loss`; within each device's batch.

  Attributes:
    features: width of the two linear embeddings.
    scale: factor of the sum.
  """

  features: int = 128
  scale: float = 0.02

  @nn.compact
  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    return losses.cc_loss(
      *_embed_both(self.features, student, teacher), scale=self.scale
    )


class CRD(Method):
  """Contrastive distillation, see `losses.crd_loss`.

  The batch must hold the `index` of each example. All devices share the memory
  banks and write the examples of all.

  Attributes:
    features: width of the two linear embeddings.
    num_negatives: examples of other classes to contrast each example with.
    temperature: divides the scores.
    momentum: weight of the old vectors in the banks.
  """

  features: int = 128
  num_negatives: int = 16384
  temperature: float = 0.07
  momentum: float = 0.5

  @nn.compact
  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    embedded = _embed_both(self.features, student, teacher)
    if self.train_labels is None:
      raise ValueError('crd needs the labels of the training set')
    class_index = self.variable(
      'memory', 'class_index', self._class_index, student['logits'].shape[-1]
    )
    state = self.variable(
      'memory',
      'banks',
      lambda: losses.init_crd_state(
        self.make_rng('params'),
        len(class_index.value.order),
        features=self.features,
      ),
    )
    labels = batch['label']
    if labels.ndim == 2:  # Mixed; the larger share counts.
      labels = labels.argmax(axis=-1)
    if self.is_initializing():
      return jnp.zeros(())
    negatives = losses.sample_negatives(
      self.make_rng('negatives'),
      labels,
      class_index.value,
      num_negatives=self.num_negatives,
    )
    per_example, state.value = losses.crd_loss(
      *embedded,
      batch['index'],
      negatives,
      state.value,
      temperature=self.temperature,
      momentum=self.momentum,
      axis_name=self.axis_name,
    )
    return per_example.mean()

  def _class_index(self, num_classes: int) -> losses.ClassIndex:
    assert self.train_labels is not None
    labels = jnp.asarray(self.train_labels())
    return losses.index_by_class(labels, num_classes=num_classes)


class FitNet(Method):
  """Regression of stage features, see `losses.fitnet_loss`.

  Attributes:
    stages: which, from 1; None for all that both networks have.
    scale: factor of the sum over stages.
  """

  stages: Sequence[int] | None = None
  scale: float = 0.1

  @nn.compact
  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    own, target = student['features'], teacher['features']
    pairs = [
      losses.FeatureAligner(
        self.student_prefix_tokens,
        self.teacher_prefix_tokens,
        name=f'stage{stage}',
      )(own[stage - 1], target[stage - 1])
      for stage in _stages(self.stages, min(len(own), len(target)))
    ]
    students, teachers = zip(*pairs, strict=True)
    return losses.fitnet_loss(students, teachers, scale=self.scale).mean()


class OFA(Method):
  """OFA-KD on the logits and on branches from the stages.

  Attributes:
    branch_weight: of the sum over the branches.
    stages: which, from 1; None for all that the student has.
    exponent: epsilon, see `losses.ofa_loss`; one number, or one for each stage
      and a last one for the student's own logits.
    temperature: divides the logits of both.

  Source: Hao et al., NeurIPS 2023, and the published program.
  """

  branch_weight: float = 1.0
  stages: Sequence[int] | None = None
  exponent: float | Sequence[float] = 1.0
  temperature: float = 1.0

  @nn.compact
  def __call__(
    self, student: Output, teacher: Output, batch: Batch, *, train: bool
  ) -> Array:
    """Loss of a batch without its weight, a scalar."""
    stages = _stages(self.stages, len(student['features']))
    branches = [self._branch(s, student, teacher, train) for s in stages]
    exponents = self.exponent
    if isinstance(exponents, float | int):
      exponents = [exponents] * (len(stages) + 1)
    if len(exponents) != len(stages) + 1:
      raise ValueError(
        f'exponent {exponents} must be one number, or {len(stages) + 1} for '
        f'{len(stages)} stages and the logits'
      )
    *of_branches, own = [
      losses.ofa_loss(
        logits,
        teacher['logits'],
        batch['label'],
        exponent=exponent,
        temperature=self.temperature,
      ).mean()
      for logits, exponent in zip(
        [*branches, student['logits']], exponents, strict=True
      )
    ]
    return own + self.branch_weight * sum(of_branches)

  def _branch(
    self, stage: int, student: Output, teacher: Output, train: bool
  ) -> Array:
    """Logits from a stage of the student."""
    feature = student['features'][stage - 1]
    num_classes = student['logits'].shape[-1]
    own_width = student['embedding'].shape[-1]
    name = f'stage{stage}'
    if feature.ndim == 4:
      width = max(own_width, teacher['embedding'].shape[-1])
      return losses.ConvProjector(stage, width, num_classes, name=name)(
        feature, train=train
      )
    return losses.TokenProjector(
      stage, own_width, num_classes, self.student_prefix_tokens, name=name
    )(feature)


class Distiller(nn.Module):
  """The sum of several methods, term by term.

  Attributes:
    terms: methods by name.
  """

  terms: Mapping[str, Method]

  @property
  def needs_index(self) -> bool:
    """Whether the batch must hold the `index` of each example."""
    return any(isinstance(term, CRD) for term in self.terms.values())

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
  'bkd': BinaryKD,
  'cc': CC,
  'crd': CRD,
  'dist': DIST,
  'dkd': DKD,
  'fitnet': FitNet,
  'kd': KD,
  'ofa': OFA,
  'rkd': RKD,
  'rsd': RSD,
  'rsd_logits': RSDLogits,
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
  _require_methods([method])
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
  train_labels: Callable[[], Array] | None = None,
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
  _require_methods([*wanted, *method_options])
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
      require_statistics(given['statistics'])
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


def require_statistics(statistics: str) -> None:
  """Raises ValueError unless 'per_device' or 'global'."""
  if statistics not in STATISTICS:
    raise ValueError(
      f'statistics {statistics!r} must be one of {", ".join(STATISTICS)}'
    )


def _require_methods(methods: Sequence[str]) -> None:
  for method in methods:
    if method not in _METHODS:
      raise ValueError(
        f'distiller {method!r} must be none, one of {", ".join(_METHODS)}, or '
        'several of them joined by +'
      )


def _embed_both(
  features: int, student: Output, teacher: Output
) -> tuple[Array, Array]:
  """Both embeddings in one width; the teacher's map is trained too."""
  return (
    losses.LinearEmbedding(features, name='student')(student['embedding']),
    losses.LinearEmbedding(features, name='teacher')(teacher['embedding']),
  )


def _stages(wanted: Sequence[int] | None, available: int) -> Sequence[int]:
  stages = range(1, available + 1) if wanted is None else wanted
  for stage in stages:
    if not 1 <= stage <= available:
      raise ValueError(f'stage {stage} must be in 1..{available}')
  return stages
