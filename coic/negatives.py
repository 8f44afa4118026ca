"""Pictures that the encoder must tell a picture from, and its other views."""

import functools
from typing import Literal, Self

import jax
import jax.numpy as jnp
from flax import struct

from common import image_ops
from common.array_types import (
  Array,
  at_least_float32,
  require_floating,
  require_rank,
  require_same_shape,
)
from common.distributed import all_rows, axis_size, own_rows

Draws = Literal['independent', 'shared']

_BLUR_RANGE = (0.3, 1.5)  # Of sigma, in pixels.


class RainBank(struct.PyTreeNode):
  """Rain layers of recent batches: first in, first out.

  Attributes:
    layers: float [capacity, h, w, 3], oldest first; the valid ones are the
      last.
    count: how many are valid, int32 scalar.
  """

  layers: Array
  count: Array

  @classmethod
  def empty(cls, capacity: int, shape: tuple[int, int, int]) -> Self:
    """A bank before the first batch.

    Args:
      capacity: number of layers to keep, a multiple of the batch size. The
        published programs keep the last 64 // batch size batches.
      shape: of a layer, (height, width, 3) of the crops.
    """
    return cls(jnp.zeros((capacity, *shape)), jnp.zeros((), jnp.int32))

  def append(self, layers: Array) -> Self:
    """Adds layers [n, h, w, 3], and drops the n oldest places.

    Raises:
      ValueError: the layers are of another size, or their number does not
        divide the capacity.
    """
    capacity = len(self.layers)
    if layers.shape[1:] != self.layers.shape[1:] or capacity % len(layers):
      raise ValueError(
        f'a bank {list(self.layers.shape)} takes layers of its size, of a '
        f'number that divides its capacity, not {list(layers.shape)}'
      )
    kept = self.layers[len(layers) :]
    return self.replace(
      layers=jnp.concatenate([kept, layers.astype(kept.dtype)]),
      count=jnp.minimum(self.count + len(layers), capacity),
    )


@functools.partial(jax.jit, static_argnames=('axis_name',), inline=True)
def rain_aware_negative(
  image: Array,
  target: Array,
  bank: RainBank | None = None,
  *,
  axis_name: str | None = None,
) -> tuple[Array, RainBank | None]:
  """Clean pictures under the rain that differs most from their own.

  A rain layer is image - target. Each picture gets the layer with the largest
  L1 distance from its own, the first of these if they are several. Couples
  the examples of a batch.

  Args:
    image: rainy RGB in [0, 1], float [b, h, w, 3].
    target: clean RGB in [0, 1], float [b, h, w, 3].
    bank: layers to choose from, after those of this batch have been added;
      None chooses among those of this batch.
    axis_name: device axis that the batch extends over: the layers of all
      devices are then chosen from, and the bank holds them and is the same
      on all devices. None means that each device has a bank of its own, as in
      the reference, which only knows one device.

  Returns:
    The pictures, RGB in [0, 1], float32 or better [b, h, w, 3], without
    gradients, and the bank with the layers of this batch.

  Raises:
    ValueError: shapes do not fit, or a dtype is not floating.

  Source: Ran et al., "Harnessing Joint Rain-/Detail-aware Representations to
  Eliminate Intricate Rains", ICLR 2024, and its program.
  """
  require_rank(4, image=image, target=target)
  require_floating(image=image, target=target)
  require_same_shape(image=image, target=target)
  image, target = jax.lax.stop_gradient(
    (at_least_float32(image), at_least_float32(target))
  )
  own = image - target
  layers = all_rows(own, axis_name)
  valid = jnp.ones(len(layers), bool)
  if bank is not None:
    bank = jax.lax.stop_gradient(bank).append(layers)
    layers = bank.layers
    valid = jnp.arange(len(layers)) >= len(layers) - bank.count
  distances = jnp.abs(own[:, None] - layers[None]).sum((2, 3, 4))
  farthest = jnp.where(valid[None], distances, -1.0).argmax(axis=1)
  return (target + layers[farthest]).clip(0.0, 1.0), bank


@functools.partial(
  jax.jit, static_argnames=('count', 'draws', 'axis_name'), inline=True
)
def detail_aware_negatives(
  rng: Array,
  target: Array,
  *,
  count: int = 4,
  draws: Draws = 'independent',
  axis_name: str | None = None,
) -> Array:
  """Clean pictures that have lost details: blurred, then flipped.

  A Gaussian of sigma uniform in [0.3, 1.5] pixels, then `random_flips`.

  Args:
    rng: key for all draws.
    target: clean RGB in [0, 1], float [b, h, w, 3].
    count: how many for each picture.
    draws: 'independent' draws for every negative, as the paper shows them, and
      is the default. 'shared' is what the published program does: it draws
      one sigma and one pair of flips for the whole batch, so that the
      negatives of a picture are copies of one.
    axis_name: see `random_flips`.

  Returns:
    RGB in [0, 1], float32 or better [b, count, h, w, 3].

  Raises:
    ValueError: shapes, the dtype or an option is wrong.

  Differs from the reference: independent draws, see `draws`.

  Source: Ran et al., "Harnessing Joint Rain-/Detail-aware Representations to
  Eliminate Intricate Rains", ICLR 2024, and its program.
  """
  _check(target, draws)
  if count < 1:
    raise ValueError(f'count = {count} must be positive')
  batch = len(target)
  shared = draws == 'shared'
  copies = target if shared else jnp.repeat(target, count, axis=0)
  rng_blur, rng_flips = jax.random.split(rng)
  low, high = _BLUR_RANGE
  number = len(copies) * axis_size(axis_name)
  sigma = jax.random.uniform(
    rng_blur, () if shared else (number,), minval=low, maxval=high
  )
  if not shared:
    sigma = own_rows(sigma, axis_name)
  blurred = image_ops.gaussian_blur(copies, sigma)
  blurred = random_flips(rng_flips, blurred, draws=draws, axis_name=axis_name)
  if shared:
    blurred = jnp.repeat(blurred, count, axis=0)
  return blurred.reshape(batch, count, *target.shape[1:])


@functools.partial(jax.jit, static_argnames=('draws', 'axis_name'), inline=True)
def random_flips(
  rng: Array,
  image: Array,
  *,
  draws: Draws = 'independent',
  axis_name: str | None = None,
) -> Array:
  """Flips pictures left-right or not, and up-down or not, evenly.

  Args:
    rng: key for all draws.
    image: float [b, h, w, c].
    draws: 'independent' draws for each picture; 'shared' draws once for the
      whole batch, as the published program does.
    axis_name: device axis that the batch extends over. With the same `rng` on
      all devices, each picture gets what it would get on one device that has
      the whole batch.

  Returns:
    Float [b, h, w, c].

  Raises:
    ValueError: shapes, the dtype or an option is wrong.

  Differs from the reference: independent draws, see `draws`.

  Source: CoIC, the published program.
  """
  _check(image, draws)
  shared = draws == 'shared'
  number = 1 if shared else len(image) * axis_size(axis_name)
  for axis, flipped in zip(
    (2, 1), jax.random.bernoulli(rng, shape=(2, number)), strict=True
  ):
    if not shared:
      flipped = own_rows(flipped, axis_name)
    image = jnp.where(
      flipped[:, None, None, None], jnp.flip(image, axis), image
    )
  return image


def _check(image: Array, draws: str) -> None:
  require_rank(4, image=image)
  require_floating(image=image)
  if draws not in ('independent', 'shared'):
    raise ValueError(f"draws = {draws!r} must be 'independent' or 'shared'")
