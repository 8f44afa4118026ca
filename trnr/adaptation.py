"""Learning from tasks: inner steps on a support set, a loss on a query set.

A *loss function* here is `loss_fn(params, batch_stats, batch)`. It runs the
network in training mode on a batch of `input` and `target` [shots, h, w, c]
(and `sigma` [shots]) and gives the loss and the updated running statistics.

Running statistics take no part in training mode, so a pass over a batch adds
the same amount to them whatever they were. Tasks can thus be worked on in any
order and place, and their statistics be put together afterwards as if they had
come one after the other.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from common import distributed
from common.array_types import Array, ArrayLike, Batch, PyTree
from trnr.attenuation import Attenuate, attenuate
from trnr.task_mean import mean_of_tasks

LossFunction = Callable[[PyTree, PyTree, Batch], tuple[Array, PyTree]]
Tasks = Mapping[str, Batch]


class Adaptation(NamedTuple):
  """What `adapt` gives.

  Attributes:
    params: adapted parameters.
    batch_stats: running statistics after the support passes.
    losses: on the support set before each step, [inner_steps].
  """

  params: PyTree
  batch_stats: PyTree
  losses: Array


class MetaOutputs(NamedTuple):
  """What `meta_loss` gives beside the loss.

  Attributes:
    batch_stats: running statistics after all passes.
    support_loss: before each inner step, mean over tasks, [inner_steps].
    query_loss: after each inner step, mean over tasks, [inner_steps].
    factors: of the attenuation, mean over tasks, [parameters]; empty without.
  """

  batch_stats: PyTree
  support_loss: Array
  query_loss: Array
  factors: Array


def graded_learning_rates(
  depths: PyTree, *, first: float, last: float
) -> PyTree:
  """Inner learning rates that fall linearly with depth.

  Args:
    depths: depth of each parameter, from 1.
    first: rate of the first layer.
    last: rate of the last layer.

  Returns:
    The same tree of float32 scalars.

  Source: Ran et al., the program: 1e-3 to 1e-4.
  """
  deepest = max(jax.tree.leaves(depths))
  return jax.tree.map(
    lambda depth: jnp.asarray(
      first - (first - last) * (depth - 1) / max(deepest - 1, 1), jnp.float32
    ),
    depths,
  )


def adapt(
  loss_fn: LossFunction,
  params: PyTree,
  batch_stats: PyTree,
  support: Batch,
  *,
  inner_learning_rate: PyTree,
  inner_steps: int = 2,
  first_order: bool = True,
) -> Adaptation:
  """Gradient descent on a support set.

  Args:
    loss_fn: see the module.
    params: parameters to start from.
    batch_stats: running statistics to start from.
    support: batch of the task.
    inner_learning_rate: a scalar, or a tree of scalars like `params`.
    inner_steps: number of steps, each on the whole support set.
    first_order: take the inner gradients for constants where the result is
      differentiated.

  Returns:
    The adapted parameters, with what came along.

  Source: Finn et al., "Model-Agnostic Meta-Learning", ICML 2017, algorithm 1;
  Ran et al., IEEE TIP 2023.
  """
  params, batch_stats = distributed.varying_like((params, batch_stats), support)

  def body(carry: tuple[PyTree, PyTree], _: None) -> tuple[Any, Array]:
    params, batch_stats, loss = _inner_step(
      loss_fn, *carry, support, inner_learning_rate, first_order
    )
    return (params, batch_stats), loss

  (params, batch_stats), losses = jax.lax.scan(
    body, (params, batch_stats), length=inner_steps
  )
  return Adaptation(params, batch_stats, losses)


def meta_loss(
  loss_fn: LossFunction,
  params: PyTree,
  batch_stats: PyTree,
  tasks: Tasks,
  *,
  inner_learning_rate: PyTree,
  inner_steps: int = 2,
  first_order: bool = True,
  step_weights: Array | None = None,
  attenuator: Attenuate | None = None,
  over_tasks: Literal['scan', 'vmap'] = 'scan',
  remat: bool = False,
  statistics_momentum: float = 0.9,
  axis_name: str | None = None,
) -> tuple[Array, MetaOutputs]:
  """Mean over tasks of the query loss after adaptation. A scalar.

  Each inner step is followed by a pass over the query set; that after the last
  one gives the loss, the others count for the running statistics (and for
  `step_weights`).

  Args:
    loss_fn: see the module.
    params: parameters that all tasks start from.
    batch_stats: running statistics.
    tasks: `support` and `query`, batches with a first axis of tasks.
    inner_learning_rate: a scalar, or a tree of scalars like `params`.
    inner_steps: number of inner steps, at least 1.
    first_order: take the inner gradients for constants.
    step_weights: of the query losses after each step, [inner_steps] (see
      `multi_step_weights`); None takes the last alone.
    attenuator: maps the mean of each parameter's support gradient
      [parameters], in the order of `jax.tree.leaves`, to factors of the
      parameters [parameters]; they apply before the inner steps. Inside
      `jax.shard_map`, its parameters went through `distributed.varying_like`.
      None for no attenuation.
    over_tasks: 'scan' works on one task after the other, with the memory of
      one; 'vmap' on all at once, which CPUs are slow at. With 'scan', tasks
      are constants, and there is no forward mode.
    remat: compute the inner steps again in the backward pass of the second
      order, instead of keeping their intermediate results.
    statistics_momentum: weight of the old running statistics in each pass.
    axis_name: device axis that tasks are spread over; running statistics and
      the means of the outputs are then those of all tasks. The loss is the
      mean over this device's tasks in any case.

  Returns:
    The loss and `MetaOutputs`.

  Raises:
    ValueError: there is no inner step, or the sets have different tasks.

  Source: Ran et al., IEEE TIP 2023, and its program; multi-step loss: Antoniou
  et al., "How to train your MAML", ICLR 2019; attenuation: Baik et al.,
  "Learning to Forget for Meta-Learning", CVPR 2020.
  """
  if inner_steps < 1:
    raise ValueError(f'inner_steps = {inner_steps} must be at least 1')
  counts = {x.shape[0] for x in jax.tree.leaves(tasks)}
  if len(counts) != 1:
    raise ValueError(f'support and query have different tasks: {counts}')

  def inner_step(
    params: PyTree, batch_stats: PyTree, support: Batch
  ) -> tuple[PyTree, PyTree, Array]:
    return _inner_step(
      loss_fn, params, batch_stats, support, inner_learning_rate, first_order
    )

  start = batch_stats
  params, batch_stats, inner_learning_rate, step_weights = (
    distributed.varying_like(
      (params, batch_stats, inner_learning_rate, step_weights), tasks
    )
  )
  if remat and not first_order:
    inner_step = jax.checkpoint(inner_step)

  # A program of one inner step. With gradients through all, a loop would keep
  # much more.
  in_loop = (
    first_order and step_weights is None and jax.default_backend() == 'cpu'
  )

  def loss_of_task(task: Tasks) -> tuple[Array, tuple[Any, ...]]:
    adapted, statistics = params, batch_stats
    factors = jnp.zeros((0,))
    if attenuator is not None:
      gradients = jax.grad(loss_fn, has_aux=True)(
        jax.lax.stop_gradient(params) if first_order else params,
        batch_stats,
        task['support'],
      )[0]
      adapted, factors = attenuate(attenuator, params, gradients)
    if in_loop:
      adapted, statistics, support_losses, losses = _in_loop(
        loss_fn, inner_step, adapted, statistics, task, inner_steps
      )
    else:
      of_support: list[Array] = []
      of_query: list[Array] = []
      for step in range(inner_steps):
        adapted, statistics, loss = inner_step(
          adapted, statistics, task['support']
        )
        of_support.append(loss)
        counts = step == inner_steps - 1 or step_weights is not None
        loss, statistics = loss_fn(
          adapted if counts else jax.lax.stop_gradient(adapted),
          statistics,
          task['query'],
        )
        of_query.append(loss)
      support_losses, losses = jnp.stack(of_support), jnp.stack(of_query)
    total = (
      losses[-1] if step_weights is None else (step_weights * losses).sum()
    )
    return total, (statistics, support_losses, losses, factors)

  if over_tasks == 'vmap':
    totals, each = jax.vmap(loss_of_task)(tasks)
    total = totals.mean()
  else:
    total, each = mean_of_tasks(loss_of_task, tasks)
  statistics, *means = jax.lax.stop_gradient(each)
  statistics = _consecutive(
    start,
    statistics,
    decay=statistics_momentum ** (2 * inner_steps),
    axis_name=axis_name,
  )
  means = [distributed.pmean(x.mean(0), axis_name) for x in means]
  return total, MetaOutputs(statistics, *means)


def _in_loop(
  loss_fn: LossFunction,
  inner_step: Callable[..., tuple[PyTree, PyTree, Array]],
  params: PyTree,
  batch_stats: PyTree,
  task: Tasks,
  inner_steps: int,
) -> tuple[PyTree, PyTree, Array, Array]:
  """Inner steps as turns of a loop, and the query loss after the last.

  Returns:
    Parameters and statistics after all, and losses on support and query set,
    [inner_steps] each; of the latter, only the last has a gradient.
  """
  query = task['query']
  shape = jax.eval_shape(loss_fn, params, batch_stats, query)[0]
  nothing = distributed.varying_like(jnp.zeros((), shape.dtype), query)

  def turn(
    carry: tuple[PyTree, PyTree], is_first: Array
  ) -> tuple[tuple[PyTree, PyTree], tuple[Array, Array]]:
    params, batch_stats = carry
    # Beside the inner step, as the two have nothing to do with each other.
    query_loss, batch_stats = jax.lax.cond(
      is_first,
      lambda batch_stats: (nothing, batch_stats),
      lambda batch_stats: loss_fn(
        jax.lax.stop_gradient(params), batch_stats, query
      ),
      batch_stats,
    )
    params, batch_stats, loss = inner_step(params, batch_stats, task['support'])
    return (params, batch_stats), (loss, query_loss)

  (params, batch_stats), (support_losses, query_losses) = jax.lax.scan(
    turn, (params, batch_stats), jnp.arange(inner_steps) == 0
  )
  last, batch_stats = loss_fn(params, batch_stats, query)
  losses = jnp.append(query_losses[1:], last)
  return params, batch_stats, support_losses, losses


def multi_step_weights(
  epoch: ArrayLike, *, inner_steps: int, num_epochs: int = 100
) -> Array:
  """Weights of the query losses after each inner step.

  All are equal at first. Those of the early steps fall linearly, and what they
  lose goes to the last.

  Args:
    epoch: epochs done, >= 0.
    inner_steps: number of inner steps.
    num_epochs: epochs after which the last step has nearly all weight.

  Returns:
    Float32 [inner_steps], of sum 1.

  Source: Antoniou et al., "How to train your MAML", ICLR 2019, section 4.
  """
  share = 1 / inner_steps
  early = jnp.maximum(share - epoch * share / num_epochs, 0.03 * share)
  weights = jnp.full((inner_steps,), early, jnp.float32)
  return weights.at[-1].set(1 - early * (inner_steps - 1))


def _inner_step(
  loss_fn: LossFunction,
  params: PyTree,
  batch_stats: PyTree,
  support: Batch,
  learning_rate: PyTree,
  first_order: bool,
) -> tuple[PyTree, PyTree, Array]:
  """One step of gradient descent; gives the loss before it."""
  at = jax.lax.stop_gradient(params) if first_order else params
  (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
    at, batch_stats, support
  )
  rates = jax.tree.broadcast(learning_rate, params)
  params = jax.tree.map(
    lambda p, rate, g: p - rate * g, params, rates, gradients
  )
  return params, batch_stats, loss


def _consecutive(
  start: PyTree, ends: PyTree, *, decay: float, axis_name: str | None
) -> PyTree:
  """Running statistics after all tasks, from those after each alone.

  Args:
    start: before the tasks, [...].
    ends: after each of this device's tasks alone, [tasks, ...].
    decay: weight that `start` has in `ends`.
    axis_name: device axis that tasks are spread over.

  Returns:
    After the tasks in their order, those of the first device first, [...].
  """
  count = jax.tree.leaves(ends)[0].shape[0] if jax.tree.leaves(ends) else 0
  total = count
  later = jnp.arange(count)[::-1]  # Tasks that come after each one.
  if axis_name is not None:
    devices = jax.lax.axis_size(axis_name)
    total *= devices
    later += count * (devices - 1 - jax.lax.axis_index(axis_name))

  def combine(before: Array, after: Array) -> Array:
    shape = (-1,) + (1,) * before.ndim
    weights = (decay**later).reshape(shape)
    added = (weights * (after - decay * before[None])).sum(0)
    return decay**total * before + distributed.psum(added, axis_name)

  return jax.tree.map(combine, start, ends)
