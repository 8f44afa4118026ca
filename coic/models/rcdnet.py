"""RCDNet: the rain convolutional dictionary network."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from coic.models.backbone import Backbone, Outputs
from coic.modulation import ModulatedConv
from coic.rain_kernels import rendered_dictionary
from common import layers
from common.array_types import Array, at_least_float32, Variables

# The published thresholds and step sizes are for images in 0..255.
_WHITE = 255.0
# Parameters that learn faster for being kept ten times as large as they are.
_ENLARGED = 10.0


class _State(NamedTuple):
  """What one stage hands to the next."""

  maps: Array  # Where each kernel of the dictionary is, [b, h, w, maps].
  rain: Array  # [b, h, w, 3].
  background: Array  # Image and carried features, [b, h, w, 3 + features].


def synthesise(maps: Array, dictionary: Array) -> Array:
  """Rain layer of the maps: each pixel's kernels around it, times its values.

  Args:
    maps: float [b, h, w, maps].
    dictionary: float [size, size, maps, 3], of an odd size.

  Returns:
    Float [b, h, w, 3].
  """
  return layers.convolution(maps, dictionary, padding=len(dictionary) // 2)


def adjoint(rain: Array, dictionary: Array) -> Array:
  """Adjoint of `synthesise`: how far each kernel lies in the rain layer.

  Args:
    rain: float [b, h, w, 3].
    dictionary: float [size, size, maps, 3], of an odd size.

  Returns:
    Float [b, h, w, maps].
  """
  cut = len(dictionary) // 2
  return layers.transposed_convolution(
    rain, dictionary, strides=(1, 1), padding=((cut, cut), (cut, cut))
  )


class ProximalNetwork(nn.Module):
  """Residual blocks that stand for a proximal operator.

  Attributes:
    blocks: number of residual blocks.
    sparse: subtract a threshold for each channel in the end, and cut at zero.
    train: normalise by batch statistics.
    axis_name: device axis to take batch statistics over; None means this
      device's batch.
    layer_options: of the modulated layers.
  """

  blocks: int
  sparse: bool
  train: bool
  axis_name: str | None
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(self, x: Array, z: Array | None) -> Array:
    """Maps [b, h, w, c] to the same shape, non-negative."""
    features = x.shape[-1]

    def normalised_conv(x: Array, block: int, number: int) -> Array:
      x = ModulatedConv(
        features, 3, name=f'block{block}_conv{number}', **self.layer_options
      )(x, z)
      return layers.BatchNorm(
        axis_name=self.axis_name, name=f'block{block}_norm{number}'
      )(x, train=self.train)

    for i in range(1, self.blocks + 1):
      residual = nn.relu(normalised_conv(x, i, 1))
      # x stays float32: bfloat16 has steps of a whole grey level.
      x = nn.relu(x + normalised_conv(residual, i, 2))
    if self.sparse:
      threshold = self.param(
        'threshold', nn.initializers.constant(0.5), (1, 1, 1, features)
      )
      x = nn.relu(x - threshold)
    return x


class _Stage(nn.Module):
  """A step of the maps, and then one of the background on what they give."""

  blocks: int
  train: bool
  axis_name: str | None
  layer_options: Mapping[str, Any]

  @nn.compact
  def __call__(
    self,
    state: _State,
    steps: tuple[Array, Array],
    image: Array,
    dictionary: Array,
    z: Array | None,
  ) -> tuple[_State, tuple[Array, Array]]:
    """Gives the new state, and background and rain for all outputs."""

    def network(name: str, sparse: bool) -> ProximalNetwork:
      return ProximalNetwork(
        self.blocks,
        sparse,
        self.train,
        self.axis_name,
        self.layer_options,
        name=name,
      )

    map_step, background_step = (step[0] for step in steps)
    background, carried = state.background[..., :3], state.background[..., 3:]
    error = adjoint(state.rain - (image - background), dictionary)
    maps = network('map_network', True)(state.maps - map_step * error, z)
    rain = synthesise(maps, dictionary)
    background = (1 - background_step) * background
    background += background_step * (image - rain)
    background = network('background_network', False)(
      jnp.concatenate([background, carried], axis=-1), z
    )
    return _State(maps, rain, background), (background[..., :3], rain)


class _Dictionary(nn.Module):
  """Kernels [size, size, maps, 3]."""

  maps: int
  size: int
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(self) -> Array:
    shape = (self.size, self.size, self.maps, 3)
    return self.param('kernel', self.kernel_init, shape) / _ENLARGED


class RCDNet(Backbone):
  """Explains the rain of an image by a dictionary of kernels.

  The rain layer is a sum of kernels, each placed by a map. Stages take turns
  at a gradient step of the maps and one of the background, each followed by a
  network of its own in place of the proximal operator. For images of any size.

  Attributes:
    stages: number of stages.
    maps: number of kernels in the dictionary.
    extra_features: channels that go along with the background.
    blocks: residual blocks of each proximal network.
    kernel_size: rows and columns of a kernel, odd.
    dictionary_init: initialiser of the two dictionaries, [kernel_size,
      kernel_size, maps, 3]; see `coic.rain_kernels`.

  Differs from the reference: the dictionaries begin with kernels rendered
  here, unless `dictionary_init` has the published ones; and the two, equal at
  first, are two parameters, which the program ties by accident on CPUs.

  Source: Wang et al., "A Model-Driven Deep Neural Network for Single Image
  Rain Removal", CVPR 2020; with modulation as in CoIC.
  """

  stages: int = 17
  maps: int = 32
  extra_features: int = 32
  blocks: int = 4
  kernel_size: int = 9
  dictionary_init: nn.initializers.Initializer = rendered_dictionary

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

    With `all_outputs` it also gives 'first_background' [b, h, w, 3], of before
    the stages; 'backgrounds' [stages + 1, b, h, w, 3], of each stage and then
    the restored image; and 'rain_layers' [stages, b, h, w, 3]; all float32.

    Raises:
      ValueError: also if `stages` is not positive or `kernel_size` even.
    """
    self._check(image, z)
    if self.stages < 1 or self.kernel_size % 2 == 0:
      raise ValueError(
        f'stages = {self.stages} must be positive and kernel_size = '
        f'{self.kernel_size} odd'
      )
    image = _WHITE * at_least_float32(image)

    def network(name: str) -> ProximalNetwork:
      return ProximalNetwork(
        self.blocks,
        False,
        train,
        self.axis_name,
        self._layer_options(),
        name=name,
      )

    carried = layers.Conv(
      self.extra_features,
      use_bias=False,
      kernel_init=nn.initializers.constant(1 / 9),
      name='carried',
    )(image)
    state = self._first_state(
      image, network('first_network')(jnp.concatenate([image, carried], -1), z)
    )
    first_background = state.background[..., :3]
    state, (backgrounds, rains) = self._stages(train)(
      state, self._step_sizes(), image, self._dictionary('dictionary'), z
    )
    restored = network('last_network')(state.background, z)[..., :3] / _WHITE
    if not all_outputs:
      return restored
    return {
      'restored': restored,
      'first_background': first_background / _WHITE,
      'backgrounds': jnp.concatenate([backgrounds / _WHITE, restored[None]]),
      'rain_layers': rains / _WHITE,
    }

  def _first_state(self, image: Array, background: Array) -> _State:
    """Maps, by a dictionary of their own, of what is rain at first sight."""
    rain = image - background[..., :3]
    threshold = self.param('rain_threshold', nn.initializers.ones, (1,))
    maps = adjoint(
      nn.relu(rain - threshold[0]), self._dictionary('first_dictionary')
    )
    return _State(maps, rain, background)

  def _dictionary(self, name: str) -> Array:
    return _Dictionary(
      self.maps, self.kernel_size, self.dictionary_init, name=name
    )()

  def _step_sizes(self) -> tuple[Array, Array]:
    """Step sizes of maps and background, [stages, 1] each."""
    # The shapes are the published ones. The first stage takes its maps as they
    # are, which is a step of size zero.
    map_steps = self.param(
      'map_steps', nn.initializers.ones, (self.stages - 1, 1)
    )
    background_steps = self.param(
      'background_steps', nn.initializers.constant(5.0), (self.stages, 1)
    )
    map_steps = jnp.pad(map_steps, ((1, 0), (0, 0)))
    return map_steps / _ENLARGED, background_steps / _ENLARGED

  def _stages(self, train: bool) -> nn.Module:
    """All stages as one loop, whose variables are kept stage by stage."""
    scanned = nn.scan(
      nn.remat(_Stage, prevent_cse=False) if self.remat else _Stage,
      variable_axes={'params': 0, 'batch_stats': 0, 'intermediates': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=self.stages,
    )
    kept_apart = nn.map_variables(
      scanned,
      ('params', 'batch_stats'),
      _stacked,
      _unstacked,
      init=self.is_initializing(),
      mutable=train,
    )
    return kept_apart(
      self.blocks, train, self.axis_name, self._layer_options(), name='stages'
    )


def _stacked(variables: Variables) -> Variables:
  """Collections whose leaves have the stages as their first axis."""
  return {
    collection: jax.tree.map(
      lambda *leaves: jnp.stack(leaves),
      *(stages[f'stage{i}'] for i in range(1, len(stages) + 1)),
    )
    for collection, stages in variables.items()
    if stages
  }


def _unstacked(variables: Variables) -> Variables:
  """Inverse of `_stacked`: stage1, stage2 and so on in each collection."""
  return {
    collection: {
      f'stage{i + 1}': jax.tree.map(lambda leaf, i=i: leaf[i], leaves)
      for i in range(len(jax.tree.leaves(leaves)[0]))
    }
    for collection, leaves in variables.items()
    if leaves
  }
