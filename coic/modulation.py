"""CoI-M: convolutions whose kernels follow the picture, and their parts.

A modulated layer multiplies its kernel by a mask, one for each picture. A
small generator makes the mask out of the picture's embedding z and the average
of the layer's own input. Without z the layer is an ordinary convolution.

Parameters of a layer: `kernel`, `bias`, and `generator/linear{1,2,3}`. They
exist whichever way the layer is initialised, so that a network can be trained
without z first and with z later.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes
from jax.ad_checkpoint import checkpoint_name

from coic.masks import kernel_masks, mask_gate, MaskLayout
from common import layers
from common.array_types import (
  Array,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_batch,
)
from common.layers import fan_in_uniform, uniform_within

Size = int | tuple[int, int]

EMBEDDING_FEATURES = 128  # Width of z in the published networks.

# What `ModulatedConv` makes, to policies of `jax.checkpoint`.
CONVOLUTION = 'modulated_convolution'


class MaskGenerator(nn.Module):
  """Makes gate and window of a layer's masks from the layer's context.

  Attributes:
    hidden_features: width of the first hidden layer; of the second it is 16.
    rows: rows of the kernel, see `kernel_masks`.
    columns: columns of the kernel.
    positions: number of positions in the window.
    linear_init: initialiser of the kernels, with biases of zero; None means
      PyTorch's default for both.

  Source: CoIC, CoI-M (the published program's `g2pa_wgen`).
  """

  hidden_features: int
  rows: int
  columns: int
  positions: int
  linear_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, context: Array) -> tuple[Array, Array]:
    """Maps a context.

    Args:
      context: z and the average of the layer's input, float32 [b, features].

    Returns:
      The gate, float32 [b, rows, columns], and the window's logits, float32
      [b, positions].
    """
    outputs = self.columns + self.rows + self.positions
    widths = (self.hidden_features, 16, outputs)
    for i, features in enumerate(widths, 1):
      context = _linear(features, context, self.linear_init, f'linear{i}')
      context = nn.relu(context) if i < len(widths) else context
    columns, rows, window = jnp.split(
      context, (self.columns, self.columns + self.rows), axis=1
    )
    return mask_gate(rows, columns), window


class _ModulatedLayer(nn.Module):
  """What the two modulated layers have in common."""

  features: int
  kernel_size: Size
  strides: Size = 1
  padding: Size | None = None
  use_bias: bool = True
  embedding_features: int | None = EMBEDDING_FEATURES
  mask_layout: MaskLayout = 'published'
  unused_generator: bool = False
  linear_init: nn.initializers.Initializer | None = None
  dtype: jax.typing.DTypeLike | None = None

  def _check(self, x: Array, z: Array | None) -> None:
    require_floating(x=x)
    require_rank(4, x=x)
    if z is None:
      return
    require_floating(z=z)
    require_rank(2, z=z)
    require_same_batch(x=x, z=z)
    if self.embedding_features is None:
      raise ValueError(
        f'z {list(z.shape)} is of no use to a layer without generator '
        '(embedding_features=None)'
      )
    if z.shape[1] != self.embedding_features:
      raise ValueError(
        f'z {list(z.shape)} must be [batch, {self.embedding_features}]'
      )

  def _operands(
    self, x: Array, z: Array | None, rows: int, columns: int, hidden: int
  ) -> tuple[Array, Array, Array | None]:
    """Input, kernel (one per picture if modulated) and bias, in one dtype."""
    size = _pair(self.kernel_size)
    positions = math.prod(size)
    shape = (*size, rows, columns)
    kernel = self.param('kernel', fan_in_uniform(), shape, jnp.float32)
    bias = None
    if self.use_bias:
      limit = (positions * rows) ** -0.5
      bias = self.param(
        'bias', uniform_within(limit), (self.features,), jnp.float32
      )
    modulated = positions > 1
    if self.embedding_features is not None and (
      modulated or self.unused_generator
    ):
      generator = MaskGenerator(
        hidden, rows, columns, positions, self.linear_init, name='generator'
      )
      if self.is_initializing():  # Parameters exist in either mode.
        generator(jnp.zeros((1, self.embedding_features + x.shape[-1])))
      if z is not None and modulated:
        mean = at_least_float32(x).mean((1, 2))
        gate, window = generator(
          jnp.concatenate([z.astype(mean.dtype), mean], 1)
        )
        self.sow('intermediates', 'gate', gate)
        self.sow('intermediates', 'window', window)
        masks = kernel_masks(gate, window, layout=self.mask_layout)
        kernel = kernel[None] * masks.reshape(-1, *kernel.shape)
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return x, kernel, bias


class ModulatedConv(_ModulatedLayer):
  """A convolution with one kernel per picture.

  Layers of a 1x1 kernel are never modulated.

  Attributes:
    features: number of output channels.
    kernel_size: height and width of the kernel, or both as one number; so are
      the next three.
    strides: steps of the window.
    padding: zeros on each side; None means dilation * (kernel size - 1) / 2,
      rounded down, which keeps the size where the stride is 1 and the kernel
      is odd.
    dilation: distance between the window's positions.
    groups: number of groups of channels that do not mix.
    use_bias: add a bias per output channel, not modulated.
    embedding_features: width of z; None makes no generator.
    mask_layout: see `kernel_masks`.
    unused_generator: make the generator of a 1x1 kernel too, which is never
      used, as published weights have it.
    linear_init: initialiser of the generator's kernels, with biases of zero;
      None means PyTorch's default.
    dtype: of the convolution; None promotes input and parameters. The mask is
      computed in float32.

  Differs from the reference: a grouped layer of less than 16 output channels
  has a generator of hidden width 1, not 0.

  Source: CoIC, CoI-M.
  """

  dilation: Size = 1
  groups: int = 1

  def __call__(self, x: Array, z: Array | None = None) -> Array:
    """Convolves.

    With `mutable=['intermediates']` it also gives `gate` and `window` of its
    masks, see `MaskGenerator`.

    Args:
      x: float [b, h, w, c].
      z: embeddings, float [b, embedding_features]; None means an ordinary
        convolution.

    Returns:
      Float [b, h', w', features].

    Raises:
      ValueError: shapes do not fit, or the groups do not divide the channels.
    """
    return self._convolve(*self.operands(x, z))

  @nn.compact
  def operands(
    self, x: Array, z: Array | None = None
  ) -> tuple[Array, Array, Array | None]:
    """Input, kernel (one for each picture with z) and bias, in one dtype.

    Args:
      x: see `__call__`, as for z and what is raised.
      z: embeddings.

    Returns:
      Float [b, h, w, c], [kh, kw, c / groups, features] or [b, kh, kw, c /
      groups, features], and [features] or None.
    """
    self._check(x, z)
    channels = x.shape[-1]
    if channels % self.groups or self.features % self.groups:
      raise ValueError(
        f'{self.groups} groups do not divide {channels} input and '
        f'{self.features} output channels'
      )
    grouped = self.groups > 1
    hidden = max(1, self.features // 16) if grouped else self.features
    return self._operands(x, z, channels // self.groups, self.features, hidden)

  def _convolve(self, x: Array, kernel: Array, bias: Array | None) -> Array:
    convolve = (
      layers.convolution if kernel.ndim == 4 else layers.per_sample_convolution
    )
    size, dilation = _pair(self.kernel_size), _pair(self.dilation)
    x = convolve(
      x,
      kernel,
      strides=_pair(self.strides),
      padding=_padding(self.padding, size, dilation),
      dilation=dilation,
      groups=self.groups,
    )
    x = x if bias is None else x + bias[None, None, None]
    return checkpoint_name(x, CONVOLUTION)


def convolve_together(
  convolutions: Sequence[ModulatedConv], x: Array, z: Array | None = None
) -> list[Array]:
  """What layers make of one input, in a single convolution, which is faster.

  Args:
    convolutions: ungrouped layers with biases that differ in name alone.
    x: float [b, h, w, c].
    z: embeddings, see `ModulatedConv.__call__`.

  Returns:
    The output of each, float [b, h', w', features].
  """
  operands = [layer.operands(x, z) for layer in convolutions]
  (x, *_), kernels, biases = zip(*operands, strict=True)
  joined = convolutions[0]._convolve(
    x, jnp.concatenate(kernels, -1), jnp.concatenate(biases)
  )
  return jnp.split(joined, len(convolutions), axis=-1)


class ModulatedConvTranspose(_ModulatedLayer):
  """A transposed convolution with one kernel per picture.

  The adjoint of a convolution: each input pixel paints its kernel, times its
  value, into the output. The kernel is [height, width, output channels, input
  channels].

  Attributes:
    features: number of output channels.
    kernel_size: height and width of the kernel, or both as one number; so are
      the next two.
    strides: distance between the painted kernels.
    padding: rows and columns cut off each side of the output; None means
      (kernel size - 1) / 2, rounded down.
    use_bias: add a bias per output channel, not modulated.
    embedding_features: width of z; None makes no generator.
    mask_layout: see `kernel_masks`.
    unused_generator: make the generator of a 1x1 kernel too.
    linear_init: initialiser of the generator's kernels, with biases of zero;
      None means PyTorch's default.
    dtype: of the convolution; None promotes input and parameters. The mask is
      computed in float32.

  Source: CoIC, CoI-M (used for up-sampling in DGUNet and IDT).
  """

  @nn.compact
  def __call__(self, x: Array, z: Array | None = None) -> Array:
    """Paints; see `ModulatedConv.__call__`."""
    self._check(x, z)
    x, kernel, bias = self._operands(
      x, z, self.features, x.shape[-1], self.features
    )
    convolve = (
      layers.transposed_convolution
      if kernel.ndim == 4
      else layers.per_sample_transposed_convolution
    )
    x = convolve(
      x,
      kernel,
      strides=_pair(self.strides),
      padding=_padding(self.padding, _pair(self.kernel_size), (1, 1)),
    )
    return x if bias is None else x + bias[None, None, None]


class ContextBranch(nn.Module):
  """Turns z into what is added to the source of an attention's keys and values.

  Attributes:
    features: width of the attention.
    linear_init: initialiser of the kernel, with a bias of zero; None means
      PyTorch's default.
    dtype: of the result; None keeps that of z.

  Source: CoIC, CoI-M in transformers.
  """

  features: int
  linear_init: nn.initializers.Initializer | None = None
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, z: Array) -> Array:
    """Maps embeddings [b, embedding_features] to [b, features]."""
    branch = _linear(self.features, nn.silu(z), self.linear_init, 'linear')
    return branch.astype(self.dtype or z.dtype)


def _linear(
  features: int,
  x: Array,
  kernel_init: nn.initializers.Initializer | None,
  name: str,
) -> Array:
  """A linear layer inside the calling module."""
  limit = x.shape[-1] ** -0.5
  return nn.Dense(
    features,
    kernel_init=kernel_init or fan_in_uniform(),
    bias_init=nn.initializers.zeros if kernel_init else uniform_within(limit),
    name=name,
  )(x)


def _pair(size: Size) -> tuple[int, int]:
  return (size, size) if isinstance(size, int) else size


def _padding(
  padding: Size | None, size: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
  """Zeros before and after rows and columns."""
  if padding is None:
    rows, columns = (
      step * (side - 1) // 2 for step, side in zip(dilation, size, strict=True)
    )
  else:
    rows, columns = _pair(padding)
  return (rows, rows), (columns, columns)
