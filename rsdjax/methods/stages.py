"""Methods on the features of the stages."""

from collections.abc import Sequence

import flax.linen as nn

from common.array_types import Array, Batch
from rsdjax import losses
from rsdjax.methods.method import Method, Output


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


def _stages(wanted: Sequence[int] | None, available: int) -> Sequence[int]:
  stages = range(1, available + 1) if wanted is None else wanted
  for stage in stages:
    if not 1 <= stage <= available:
      raise ValueError(f'stage {stage} must be in 1..{available}')
  return stages
