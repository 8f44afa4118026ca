"""Distillation methods as Linen modules: loss, what it trains and remembers."""

from rsdjax.methods.embeddings import CC, CRD, RKD, RSD
from rsdjax.methods.logits import BinaryKD, DIST, DKD, KD, RSDLogits
from rsdjax.methods.method import (
  Method,
  Output,
)
from rsdjax.methods.stages import FitNet, OFA

__all__ = [
  'CC',
  'CRD',
  'DIST',
  'DKD',
  'KD',
  'OFA',
  'RKD',
  'RSD',
  'BinaryKD',
  'FitNet',
  'Method',
  'Output',
  'RSDLogits',
]
