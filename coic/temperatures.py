"""Temperatures of the masks that modulate a network."""

import functools

import flax
import jax
import jax.numpy as jnp

from coic.models import Backbone
from common.array_types import (
  Array,
  at_least_float32,
  PyTree,
  require_floating,
  Variables,
)


def mask_temperatures(gate: Array, window: Array) -> Array:
  """How flat masks are: 1 / gate over the height of the window's logits.

  At a low temperature a mask picks out few positions of the window. Layers
  give both as intermediates, see `coic.modulation.ModulatedConv`.

  Args:
    gate: float [..., rows, columns], in (0, 1).
    window: logits of the positions, float [..., positions].

  Returns:
    Float32 or better [..., rows, columns], > 0.

  Raises:
    ValueError: a dtype is not floating.

  Differs from the reference: of each picture by itself. The published program
  takes the smallest and the mean logit of a batch, which is always one picture.

  Source: CoIC, the published analysis.
  """
  require_floating(gate=gate, window=window)
  gate, window = at_least_float32(gate), at_least_float32(window)
  height = (window - window.min(-1, keepdims=True)).mean(-1)
  return 1 / gate / (height[..., None, None] + 1e-8)


def mean_log_temperatures(intermediates: PyTree) -> dict[str, Array]:
  """Mean log temperature of the masks of each modulated layer.

  Args:
    intermediates: what a network gives under that name with
      `mutable=['intermediates']`.

  Returns:
    By the layer's name, float [calls, b]: layers of a recurrent network are
    called several times.
  """
  flat = flax.traverse_util.flatten_dict(intermediates)
  found = {}
  for (*path, name), gates in flat.items():
    if name == 'gate':
      windows = flat[*path, 'window']
      means = [
        jnp.log(mask_temperatures(gate, window)).mean((-2, -1))
        for gate, window in zip(gates, windows, strict=True)
      ]
      # In a scan, one array holds all calls.
      found['/'.join(path)] = jnp.concatenate(
        [x.reshape(-1, x.shape[-1]) for x in means]
      )
  return found


@functools.partial(jax.jit, static_argnums=0)
def network_temperatures(
  network: Backbone, variables: Variables, image: Array, z: Array
) -> dict[str, Array]:
  """Mean log temperatures of a network's layers on pictures.

  Args:
    network: from `coic.models.create`, modulated.
    variables: its variables.
    image: rainy RGB in [0, 1], float [b, h, w, 3].
    z: embeddings, float [b, embedding_features].

  Returns:
    See `mean_log_temperatures`.
  """
  _, state = network.apply(variables, image, z, mutable=['intermediates'])
  return mean_log_temperatures(state['intermediates'])
