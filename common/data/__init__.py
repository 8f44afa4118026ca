"""Images from disk to batches of NumPy arrays, without a device in sight."""

from common.data.datasets import classification, ClassificationData
from common.data.pipeline import evaluation_batches, train_iterator
from common.data.sources import Source

__all__ = [
  'ClassificationData',
  'Source',
  'classification',
  'evaluation_batches',
  'train_iterator',
]
