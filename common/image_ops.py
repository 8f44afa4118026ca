"""Operations on batches of images, on the device."""

from collections.abc import Sequence

import jax.numpy as jnp

from common.array_types import Array


def normalize(
  image: Array, *, mean: Sequence[float], std: Sequence[float]
) -> Array:
  """Standardises uint8 images per channel; float images pass as they are.

  Images travel to the device as uint8, a quarter of the bytes. Where the input
  pipeline must work on standardised values (random erasing), it hands over
  float images that are standardised already.

  Args:
    image: uint8 [batch, h, w, channels] in 0..255, or standardised floats.
    mean: per channel, for images in [0, 1].
    std: per channel, for images in [0, 1].

  Returns:
    Float [batch, h, w, channels].
  """
  if image.dtype != jnp.uint8:
    return image
  scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
  shift = jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)
  return (
    image.astype(jnp.float32) * scale[None, None, None]
    - shift[None, None, None]
  )
