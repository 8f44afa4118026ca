"""What a task has the shared parameters forget before the inner steps."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.array_types import Array, PyTree

# Maps the mean gradient of each parameter to its factor, both [parameters].
Attenuate = Callable[[Array], Array]


class Attenuator(nn.Module):
  """Factors of the parameters from their mean gradients on a task.

  Attributes:
    smallest: lower bound of the factors; the upper one is 1.

  Source: Baik et al., "Learning to Forget for Meta-Learning", CVPR 2020, as
  the program of Ran et al. has it.
  """

  smallest: float = 0.7

  @nn.compact
  def __call__(self, mean_gradients: Array) -> Array:
    """Maps [parameters] to [parameters] in (smallest, 1)."""
    count = mean_gradients.shape[-1]
    hidden = nn.relu(nn.Dense(count, name='hidden')(mean_gradients))
    gate = nn.sigmoid(nn.Dense(count, name='gate')(hidden))
    return self.smallest + (1 - self.smallest) * gate


def attenuate(
  attenuator: Attenuate, params: PyTree, gradients: PyTree
) -> tuple[PyTree, Array]:
  """Parameters times factors that follow from their gradients on a task.

  Args:
    attenuator: see `Attenuate`; parameters are in the order of
      `jax.tree.leaves`.
    params: what is scaled.
    gradients: the same tree.

  Returns:
    The scaled tree, and the factors [parameters].

  Source: Baik et al., "Learning to Forget for Meta-Learning", CVPR 2020.
  """
  means = jnp.stack([g.mean() for g in jax.tree.leaves(gradients)])
  factors = attenuator(means)
  leaves, structure = jax.tree.flatten(params)
  scaled = [x * factors[i] for i, x in enumerate(leaves)]
  return jax.tree.unflatten(structure, scaled), factors
