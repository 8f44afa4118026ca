"""What a network costs, counted without running it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

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
  return multiply_adds(model.apply, variables, image)


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
  """Multiply-adds of the convolutions and matrix products of a function.

  The body of a loop counts once.

  Args:
    function: a function of arrays.
    *arguments: its arguments, or their shapes.
  """
  return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _image(side: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def _count(jaxpr: Any) -> int:
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      per_output = math.prod(shape[axis] for axis in contracted)
    elif equation.primitive.name == 'conv_general_dilated':
      out_axis = equation.params['dimension_numbers'].rhs_spec[0]
      kernel = equation.invars[1].aval
      per_output = kernel.size // kernel.shape[out_axis]
    else:
      inner = jax.extend.core.jaxprs_in_params(equation.params)
      total += sum(_count(part) for part in inner)
      continue
    total += equation.outvars[0].aval.size * per_output
  return total
