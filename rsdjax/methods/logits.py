"""Methods on logits."""

from common.array_types import Array, Batch
from rsdjax import losses
from rsdjax.methods.method import Method, Output


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
