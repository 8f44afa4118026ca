"""Methods on the embedding that enters the classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.array_types import Array, Batch
from rsdjax import losses
from rsdjax.decoupler import Decoupler
from rsdjax.methods.method import Method, Output

DECOUPLERS = ('aad', 'linear', 'none')


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
      embedding = Decoupler(width, self.expansion, axis_name, name='aad')(
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
    negatives = self._negatives(batch['index'], labels, class_index.value)
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

  def _negatives(
    self, indices: Array, labels: Array, class_index: losses.ClassIndex
  ) -> Array:
    """Draws with a key per example, so that its place does not matter."""

    def draw(rng: Array, label: Array) -> Array:
      return losses.sample_negatives(
        rng, label[None], class_index, num_negatives=self.num_negatives
      )[0]

    fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(draw)(fold_in(self.make_rng('negatives'), indices), labels)

  def _class_index(self, num_classes: int) -> losses.ClassIndex:
    assert self.train_labels is not None
    labels = jnp.asarray(self.train_labels())
    return losses.index_by_class(labels, num_classes=num_classes)


def _embed_both(
  features: int, student: Output, teacher: Output
) -> tuple[Array, Array]:
  """Both embeddings in one width; the teacher's map is trained too."""
  return (
    losses.LinearEmbedding(features, name='student')(student['embedding']),
    losses.LinearEmbedding(features, name='teacher')(teacher['embedding']),
  )
