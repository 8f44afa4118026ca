"""Losses of tasks one after the other, in the memory of one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from common.array_types import Array, PyTree


def mean_of_tasks(
  loss_of_task: Callable[[PyTree], tuple[Array, Any]], tasks: PyTree
) -> tuple[Array, Any]:
  """Mean loss of tasks one after the other, and what each gives besides.

  JAX would go through all tasks and then back through all, and so keep the
  intermediate results of all. Here, the gradient of a task is taken at once.

  Args:
    loss_of_task: gives a scalar, and a tree of arrays without a gradient.
    tasks: a tree of arrays [tasks, ...].

  Returns:
    The mean of the scalars, and the trees as one, of arrays [tasks, ...].
  """
  function, closed_over = jax.closure_convert(
    loss_of_task, jax.tree.map(lambda x: x[0], tasks)
  )

  @jax.custom_vjp
  def mean(closed_over: list[Array]) -> tuple[Array, Any]:
    totals, each = jax.lax.map(lambda task: function(task, *closed_over), tasks)
    return totals.mean(), each

  def forward(
    closed_over: list[Array],
  ) -> tuple[tuple[Array, Any], list[Array]]:
    def body(
      gradient: list[Array], task: PyTree
    ) -> tuple[list[Array], tuple[Array, Any]]:
      result, of_task = jax.value_and_grad(
        lambda values: function(task, *values), has_aux=True
      )(closed_over)
      return jax.tree.map(jnp.add, gradient, of_task), result

    gradient = jax.tree.map(jnp.zeros_like, closed_over)
    gradient, (totals, each) = jax.lax.scan(body, gradient, tasks)
    return (totals.mean(), each), [x / len(totals) for x in gradient]

  def backward(
    gradient: list[Array], cotangents: tuple[Array, Any]
  ) -> tuple[list[Array]]:
    return ([cotangents[0] * x for x in gradient],)

  mean.defvjp(forward, backward)
  return mean(closed_over)
