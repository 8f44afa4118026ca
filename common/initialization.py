"""Variables of a module, without running it."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import (
  ClosedJaxpr,
  Jaxpr,
  jaxpr_as_fun,
  JaxprEqn,
  jaxprs_in_params,
  Var,
)
from jax.extend.core.primitives import random_bits_p
from jax.interpreters.partial_eval import dce_jaxpr

from common.array_types import Array, Variables


def initialize(
  module: nn.Module, rng: Array, *args: Any, **options: Any
) -> Variables:
  """The variables of `module.init(rng, *args, **options)`.

  Initialisers are all that runs: what they draw one by one, so that they share
  compiled programs, and the last operation of each, which has the variable's
  shape, in a program together, which is dropped. `Module.lazy_init` also runs
  what the module makes of constants, and JAX keeps a program for each kind of
  operation and shape in it.

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
  first, last = _without_last_operations(jaxpr)
  values = jaxpr_as_fun(ClosedJaxpr(first, closed.consts))()
  values = jax.jit(jaxpr_as_fun(ClosedJaxpr(last, ())))(*values)
  return jax.tree.unflatten(jax.tree.structure(variables), values)


def _without_last_operations(jaxpr: Jaxpr) -> tuple[Jaxpr, Jaxpr]:
  """What comes before operations that only results need, and these.

  Those that draw random numbers, which compile for long, stay with the first.
  """
  inputs = {x for equation in jaxpr.eqns for x in _variables(equation.invars)}
  parts: tuple[list[JaxprEqn], list[JaxprEqn]] = [], []
  for equation in jaxpr.eqns:
    is_last = inputs.isdisjoint(equation.outvars) and not _draws(equation)
    parts[is_last].append(equation)
  first, last = parts
  made = {x for equation in last for x in equation.outvars}
  passed = dict.fromkeys(
    [x for equation in last for x in _variables(equation.invars)]
    + [x for x in _variables(jaxpr.outvars) if x not in made]
  )
  info = jaxpr.debug_info.with_unknown_names()
  return (
    jaxpr.replace(eqns=first, outvars=[*passed], debug_info=info),
    jaxpr.replace(constvars=[], invars=[*passed], eqns=last, debug_info=info),
  )


def _variables(atoms: Sequence[Any]) -> list[Var]:
  return [x for x in atoms if isinstance(x, Var)]


def _draws(equation: JaxprEqn) -> bool:
  inner = jaxprs_in_params(equation.params)
  return equation.primitive is random_bits_p or any(
    _draws(x) for jaxpr in inner for x in jaxpr.eqns
  )
