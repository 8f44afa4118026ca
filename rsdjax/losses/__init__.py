"""Distillation losses: pure, jitted functions of arrays.

What a loss trains beside the student (projectors, aligners, embeddings) is a
Linen module, and what it remembers is a state that it takes and returns.
"""

from rsdjax.losses.contrastive import (
  ClassIndex,
  crd_loss,
  CRDState,
  index_by_class,
  init_crd_state,
  sample_negatives,
)
from rsdjax.losses.features import FeatureAligner, fitnet_loss
from rsdjax.losses.linear_embedding import LinearEmbedding
from rsdjax.losses.logits import (
  binary_cross_entropy,
  binary_kd_loss,
  cross_entropy,
  dist_loss,
  dkd_loss,
  kd_loss,
)
from rsdjax.losses.ofa import ConvProjector, ofa_loss, TokenProjector
from rsdjax.losses.relations import cc_loss, rkd_loss
from rsdjax.losses.rsd import (
  cheaper_collective,
  cross_correlation,
  decorrelation_loss,
  invariance_loss,
  rsd_loss,
)

__all__ = [
  'CRDState',
  'ClassIndex',
  'ConvProjector',
  'FeatureAligner',
  'LinearEmbedding',
  'TokenProjector',
  'binary_cross_entropy',
  'binary_kd_loss',
  'cc_loss',
  'cheaper_collective',
  'crd_loss',
  'cross_correlation',
  'cross_entropy',
  'decorrelation_loss',
  'dist_loss',
  'dkd_loss',
  'fitnet_loss',
  'index_by_class',
  'init_crd_state',
  'invariance_loss',
  'kd_loss',
  'ofa_loss',
  'rkd_loss',
  'rsd_loss',
  'sample_negatives',
]
