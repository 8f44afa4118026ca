"""Image deraining on mixed data, with kernels that follow the image (CoIC)."""

from coic.encoder import Encoder
from coic.modulation import (
  ContextBranch,
  ModulatedConv,
  ModulatedConvTranspose,
)

__all__ = [
  'ContextBranch',
  'Encoder',
  'ModulatedConv',
  'ModulatedConvTranspose',
]
