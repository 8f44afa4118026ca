"""Variables of a module, without running it."""

from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from common.array_types import Array, Variables


def initialize(
  module: nn.Module, rng: Array, *args: Any, **options: Any
) -> Variables:
  """The variables of `module.init(rng, *args, **options)`.

  Initialisers are all that runs, one by one, so that they share compiled
  programs. `Module.lazy_init` also runs what the module makes of constants, and
  JAX keeps a program for each kind of operation in it.

  Args:
    module: to initialise.
    rng: a key.
    *args: of the module's `__call__`; `jax.ShapeDtypeStruct` stands for arrays,
      in trees too, of which only shape and dtype matter.
    **options: keywords of the same.

  Returns:
    All collections that the module makes.

  Raises:
    ValueError: a variable depends on the values of an argument of which only
      the shape was given.
  """
  leaves, structure = jax.tree.flatten((args, options))
  shapes = [x for x in leaves if isinstance(x, jax.ShapeDtypeStruct)]

  def init(*shaped: Array) -> Variables:
    left = iter(shaped)
    full = [
      next(left) if isinstance(x, jax.ShapeDtypeStruct) else x for x in leaves
    ]
    args, options = jax.tree.unflatten(structure, full)
    return module.init(rng, *args, **options)

  closed, variables = jax.make_jaxpr(init, return_shape=True)(*shapes)
  # Also inside of loops and of what is to be computed again.
  jaxpr, used = dce_jaxpr(closed.jaxpr, True)
  if any(used):
    raise ValueError(
      f'variables of {type(module).__name__} depend on the values of an '
      'argument, not only on its shape: give arrays'
    )
  values = jaxpr_as_fun(closed.replace(jaxpr=jaxpr))()
  return jax.tree.unflatten(jax.tree.structure(variables), values)
