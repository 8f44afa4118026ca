"""Cross-architecture distillation by redundancy suppression (RSD)."""

from rsdjax import losses, models
from rsdjax.decoupler import Decoupler

__all__ = ['Decoupler', 'losses', 'models']
