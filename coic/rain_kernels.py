"""Rain kernels, which RCDNet's dictionaries start from.

A dictionary is laid out as the kernel of a convolution from maps to a rain
layer, [size, size, count, 3]. RCDNet was published with a file of 32 kernels,
array `C9` [3, 32, 9, 9]; `np.transpose(c9, (2, 3, 1, 0))` is the dictionary.
"""

import math
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from common.array_types import Array, ArrayLike

# Range of the sums of the published kernels, each over one channel.
_SUMS = 0.139, 0.997
# Of the kernels that are rendered here: degrees from the vertical, and pixels
# (standard deviations).
_ANGLES = -45.0, 45.0
_LENGTHS = 0.8, 2.4
_WIDTHS = 0.4, 0.8


def rendered_kernels(count: int = 32, size: int = 9) -> np.ndarray:
  """Draws streaks of rain: Gaussian spots, longer than wide, about upright.

  Directions, lengths, widths and sums are spread evenly over their ranges, all
  four together, so that any number of kernels is a diverse set and always the
  same one. The sums have the range of the published kernels.

  Args:
    count: number of kernels.
    size: rows and columns of a kernel, odd.

  Returns:
    Dictionary, non-negative, the same in the three channels, float32 [size,
    size, count, 3].

  Raises:
    ValueError: the count or the size is not positive, or the size is even.
  """
  if count < 1 or size < 1 or size % 2 == 0:
    raise ValueError(
      f'count = {count} must be positive, size = {size} positive and odd'
    )
  angle, length, width, total = _spread(
    count, _ANGLES, _LENGTHS, _WIDTHS, _SUMS
  )
  angle = np.deg2rad(angle)
  offset = np.arange(size) - size // 2
  down, right = offset[:, None, None], offset[None, :, None]
  along = down * np.cos(angle) + right * np.sin(angle)
  across = right * np.cos(angle) - down * np.sin(angle)
  streaks = np.exp(-((along / length) ** 2 + (across / width) ** 2) / 2)
  streaks *= total / streaks.sum((0, 1))
  return np.repeat(streaks[..., None], 3, axis=-1).astype(np.float32)


def rendered_dictionary(
  key: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32
) -> Array:
  """Initialiser of a dictionary: `rendered_kernels`, whatever the key.

  Raises:
    ValueError: the shape is not [size, size, count, 3] of an odd size.
  """
  del key
  size, _, count, _ = shape
  return _checked(rendered_kernels(count, size), shape, dtype)


def given_dictionary(kernels: ArrayLike) -> nn.initializers.Initializer:
  """Initialiser of a dictionary with kernels of your own, or published ones.

  Args:
    kernels: float [size, size, count, 3].

  Returns:
    Function of key, shape and dtype. Networks are compared by the identity of
    their initialisers: make it once, or they are compiled again.

  Raises:
    ValueError: (the initialiser) the network needs another shape.
  """

  def initialise(
    key: Array,
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike = jnp.float32,
  ) -> Array:
    del key
    return _checked(kernels, shape, dtype)

  return initialise


def read_dictionary(
  path: str | os.PathLike[str],
) -> nn.initializers.Initializer:
  """Initialiser of a dictionary with the published kernels.

  Args:
    path: .npz file with the array `C9`, float [3, count, size, size].

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it has no such array, or as `given_dictionary`.
  """
  with np.load(path, allow_pickle=False) as arrays:
    if 'C9' not in arrays:
      raise ValueError(f'{path} has no array C9, but {sorted(arrays)}')
    return given_dictionary(np.transpose(arrays['C9'], (2, 3, 1, 0)))


def _checked(
  kernels: ArrayLike, shape: tuple[int, ...], dtype: jax.typing.DTypeLike
) -> Array:
  if np.shape(kernels) != tuple(shape):
    raise ValueError(
      f'kernels {list(np.shape(kernels))} must be {list(shape)}: rows, '
      'columns, kernels and colours'
    )
  return jnp.asarray(kernels, dtype)


def _spread(count: int, *ranges: tuple[float, float]) -> list[np.ndarray]:
  """Evenly spread points of a box, coordinate by coordinate, [count] each.

  Steps of the powers of 1 / g, modulo 1, where g solves g^(n + 1) = g + 1:
  what the golden ratio is on a line (n = 1), for n coordinates.
  """
  ratio = 1.0
  for _ in range(64):  # A contraction: far more often than it takes.
    ratio = (1 + ratio) ** (1 / (len(ranges) + 1))
  steps = np.arange(1, count + 1)
  return [
    low + (high - low) * np.fmod(0.5 + steps / math.pow(ratio, power), 1)
    for power, (low, high) in enumerate(ranges, 1)
  ]
