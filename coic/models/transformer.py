"""What the deraining transformers have in common."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from coic.modulation import ContextBranch, ModulatedConv
from common import layers
from common.array_types import Array

LayerNorm = functools.partial(layers.LayerNorm, epsilon=1e-5)
# A convolution that z does not reach, initialised like those that it does.
PlainConv = functools.partial(ModulatedConv, embedding_features=None)


def context(
  source: Array, z: Array | None, layer_options: Mapping[str, Any]
) -> Array | None:
  """What the calling module adds to the source of its keys and values.

  Args:
    source: float [b, h, w, features]; only its width counts.
    z: embeddings, float [b, embedding_features].
    layer_options: what the modulated layers of the network take from it, see
      `Backbone`.

  Returns:
    Float [b, 1, 1, features], made by a `ContextBranch` named 'context'; None
    without z, or where the network is not modulated.

  Source: CoIC, CoI-M in transformers.
  """
  width = layer_options['embedding_features']
  if width is None:
    return None
  branch = ContextBranch(
    source.shape[-1],
    layer_options.get('linear_init'),
    layer_options['dtype'],
    name='context',
  )
  if branch.is_initializing():  # Parameters exist in either mode.
    branch(jnp.zeros((1, width)))
  return None if z is None else branch(z)[:, None, None]
