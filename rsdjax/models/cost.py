"""What a network costs, counted without running it."""

import jax
import jax.numpy as jnp

from common import cost
from rsdjax.models.network import Network


def count_parameters(model: Network, image_size: int) -> int:
  """Number of trainable parameters at images of a size, in pixels."""
  variables = jax.eval_shape(model.init, jax.random.key(0), _image(image_size))
  return sum(x.size for x in jax.tree.leaves(variables['params']))


def count_flops(model: Network, image_size: int) -> int:
  """Multiply-adds to classify one image, which the field calls FLOPs.

  Counts convolutions (their padding included) and matrix products, nothing
  else.

  Args:
    model: a network.
    image_size: side of the image in pixels.
  """
  image = _image(image_size)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  return cost.multiply_adds(model.apply, variables, image)


def _image(side: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
