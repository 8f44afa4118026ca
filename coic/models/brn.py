"""BRN: the bilateral recurrent network."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from coic.models.backbone import Backbone, Outputs
from coic.modulation import CONVOLUTION, convolve_together, ModulatedConv
from common import distributed
from common.array_types import Array, at_least_float32
from common.layers import materialized


class _Memory(NamedTuple):
  """Output and cell of a convolutional LSTM, [b, h, w, features]."""

  output: Array
  cell: Array


class _State(NamedTuple):
  """What one iteration hands to the next."""

  rain: Array  # [b, h, w, 3]
  background: Array  # [b, h, w, 3]
  rain_memory: _Memory
  background_memory: _Memory


class _Branch(nn.Module):
  """Input layer, LSTM, residual blocks and output layer."""

  features: int
  num_blocks: int
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(
    self, x: Array, memory: _Memory, other: Array, z: Array | None
  ) -> tuple[Array, _Memory]:
    """Maps images [b, h, w, c] side by side to one, [b, h, w, 3]."""

    def layer(name: str, features: int = self.features) -> ModulatedConv:
      return ModulatedConv(features, 3, name=name, **self.layer_options)

    x = nn.relu(layer('input')(x, z))
    x = jnp.concatenate([x, memory.output, other], axis=-1)
    gates = [layer(f'lstm_{gate}') for gate in 'ifgo']
    i, f, g, o = convolve_together(gates, x, z)
    cell = nn.sigmoid(f) * memory.cell + nn.sigmoid(i) * nn.tanh(g)
    memory = _Memory(nn.sigmoid(o) * nn.tanh(cell), cell)
    x = memory.output
    for block in range(1, self.num_blocks + 1):
      residual = nn.relu(layer(f'block{block}_conv1')(x, z))
      residual = nn.relu(layer(f'block{block}_conv2')(residual, z))
      x = materialized(nn.relu(residual + x))
    return layer('output', 3)(x, z), memory


class _Iteration(nn.Module):
  """The rain branch, and then the background branch on what it found."""

  features: int
  rain_blocks: int
  background_blocks: int
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(
    self, state: _State, image: Array, z: Array | None
  ) -> tuple[_State, Array]:
    """Gives the new state, and its background for all outputs."""
    rain, rain_memory = _Branch(
      self.features, self.rain_blocks, self.layer_options, name='rain'
    )(
      jnp.concatenate([image, state.rain], axis=-1),
      state.rain_memory,
      state.background_memory.output,
      z,
    )
    background, background_memory = _Branch(
      self.features,
      self.background_blocks,
      self.layer_options,
      name='background',
    )(
      jnp.concatenate([image, state.background, rain], axis=-1),
      state.background_memory,
      rain_memory.output,
      z,
    )
    state = _State(rain, background, rain_memory, background_memory)
    return state, at_least_float32(background)


class BRN(Backbone):
  """Splits an image into rain and background, in turns that share weights.

  Each iteration has a rain branch and then a background branch: an LSTM and a
  few residual blocks that see the image, the last results and both memories.
  For images of any size. Without `remat`, CPUs still compute again in the
  backward pass what lies between convolutions.

  Attributes:
    iterations: number of iterations.
    features: channels of the layers.
    rain_blocks: residual blocks of the rain branch.
    background_blocks: residual blocks of the background branch.

  Source: Ren et al., "Single Image Deraining Using Bilateral Recurrent
  Network", IEEE TIP 2020; with modulation as in CoIC.
  """

  iterations: int = 8
  features: int = 32
  rain_blocks: int = 3
  background_blocks: int = 5

  @nn.compact
  def __call__(
    self,
    image: Array,
    z: Array | None = None,
    *,
    train: bool = False,
    all_outputs: bool = False,
  ) -> Array | Outputs:
    """Restores images; see `Backbone`.

    With `all_outputs` it also gives 'backgrounds', the restored images after
    each iteration, float32 [iterations, b, h, w, 3].
    """
    del train
    self._check(image, z)
    image = image.astype(self._compute_dtype(image))
    zeros = jnp.zeros((*image.shape[:-1], self.features), image.dtype)
    # What the iterations make differs between devices as the images do.
    zeros = distributed.varying_like(zeros, (image, z))
    memory = _Memory(zeros, zeros)
    state = _State(image, image, memory, memory)
    iteration = _Iteration
    if self.remat:
      iteration = nn.remat(_Iteration, prevent_cse=False)
    elif jax.default_backend() == 'cpu':
      # In less time than they would take to write it down and read it back.
      keep = jax.checkpoint_policies.save_only_these_names(CONVOLUTION)
      iteration = nn.remat(_Iteration, prevent_cse=False, policy=keep)
    # Unrolled, the same program takes seven times as long to compile.
    iterations = nn.scan(
      iteration,
      variable_broadcast='params',
      variable_axes={'intermediates': 0},
      split_rngs={'params': False},
      in_axes=nn.broadcast,
      length=self.iterations,
    )
    _, backgrounds = iterations(
      self.features,
      self.rain_blocks,
      self.background_blocks,
      self._layer_options(),
      name='iteration',
    )(state, image, z)
    if not all_outputs:
      return backgrounds[-1]
    return {'restored': backgrounds[-1], 'backgrounds': backgrounds}
