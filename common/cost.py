"""What a function of arrays costs, counted without running it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
from jax.interpreters import partial_eval

# Of functions under jit, as `common.layers` has them for CPUs.
_FORMS_OF_LAYERS = (
  'taller_convolution',
  'depthwise_products',
  'dense_kernel_gradient',
  'depthwise_kernel_gradient',
)


def multiply_adds(
  function: Callable[..., Any], *arguments: Any, repeat_loops: bool = True
) -> int:
  """Multiply-adds of convolutions and matrix products, which the field counts.

  Convolutions count with their padding. The body of a scan counts as often as
  it runs; that of a loop without a known end counts once. What no result
  follows from does not count.

  Args:
    function: a function of arrays.
    *arguments: its arguments, or their shapes.
    repeat_loops: False counts all bodies once, as XLA's own analysis of a
      compiled program does.
  """
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(jaxpr, repeat_loops)


def _count(jaxpr: Any, repeat_loops: bool) -> int:
  total = 0
  for equation in jaxpr.eqns:
    name = equation.params.get('name')
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      per_output = math.prod(shape[axis] for axis in contracted)
    elif equation.primitive.name == 'conv_general_dilated':
      per_output = _kernel_of_an_output(equation)
    elif name in _FORMS_OF_LAYERS and len(equation.invars) < 2:
      continue  # In loops, what is constant in it can be by itself.
    elif name == 'taller_convolution':
      # In loops, its inputs can be in another order.
      (per_output,) = (
        _kernel_of_an_output(part)
        for jaxpr in jax.extend.core.jaxprs_in_params(equation.params)
        for part in jaxpr.eqns
        if part.primitive.name == 'conv_general_dilated'
      )
    elif name == 'depthwise_products':
      per_output = math.prod(equation.invars[1].aval.shape[-3:-1])
    elif name in ('depthwise_kernel_gradient', 'dense_kernel_gradient'):
      gradient, kernel = equation.invars[0].aval, equation.outvars[0].aval
      first = -4 if name.startswith('dense') else -3
      total += gradient.size * math.prod(kernel.shape[first:-1])
      continue
    else:
      inner = jax.extend.core.jaxprs_in_params(equation.params)
      repeats = 1
      if repeat_loops and equation.primitive.name == 'scan':
        repeats = equation.params['length']
      total += repeats * sum(_count(part, repeat_loops) for part in inner)
      continue
    total += equation.outvars[0].aval.size * per_output
  return total


def _kernel_of_an_output(convolution: Any) -> int:
  out_axis = convolution.params['dimension_numbers'].rhs_spec[0]
  kernel = convolution.invars[1].aval
  return kernel.size // kernel.shape[out_axis]
