"""Stochastic depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.array_types import Array


class DropPath(nn.Module):
  """Drops a residual branch for some examples, chosen per example.

  A branch that is kept is divided by the probability of keeping it, so that
  its mean stays the same. Draws from the stream 'dropout'.

  Attributes:
    rate: probability of dropping, in [0, 1).

  Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, in
  the per-example form of timm.
  """

  rate: float = 0.0

  def __call__(self, branch: Array, *, train: bool) -> Array:
    """Drops from [batch, ...] when training; gives it back otherwise."""
    if not 0 <= self.rate < 1:
      raise ValueError(f'drop path rate {self.rate} must be in [0, 1)')
    if not train or self.rate == 0:
      return branch
    keep = 1 - self.rate
    shape = (len(branch),) + (1,) * (branch.ndim - 1)
    kept = jax.random.bernoulli(self.make_rng('dropout'), keep, shape)
    return jnp.where(kept, branch / keep, 0)
