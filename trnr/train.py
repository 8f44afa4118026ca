"""Training on tasks, or on plain batches for the baselines."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from common import distributed
from common.array_types import Array, ArrayLike, Batch, PyTree
from common.train_state import TrainState
from trnr import adaptation, losses
from trnr.models import RestorationNetwork

Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]


def published_schedule(
  *,
  learning_rate: float,
  final_learning_rate: float,
  steps_per_epoch: int,
  num_epochs: int,
) -> optax.Schedule:
  """The cosine over epochs of the published program, slips included.

  The rate of an epoch is set after its first step, so that step still has the
  rate of the epoch before; and after `num_epochs` the rate rises again.

  Args:
    learning_rate: of the first epoch.
    final_learning_rate: of epoch `num_epochs`.
    steps_per_epoch: length of an epoch.
    num_epochs: length of the descent.

  Returns:
    A function of the step, for optax.

  Source: Ran et al., the program.
  """

  def schedule(step: ArrayLike) -> Array:
    epoch = jnp.maximum(jnp.asarray(step) - 1, 0) // steps_per_epoch
    wave = 0.5 * (1 + jnp.cos(jnp.pi * epoch / num_epochs))
    return final_learning_rate + (learning_rate - final_learning_rate) * wave

  return schedule


def make_loss_fn(
  network: RestorationNetwork, *, ssim_weight: float = 5.0
) -> adaptation.LossFunction:
  """The loss of a network in training mode, as `trnr.adaptation` takes it.

  Args:
    network: to train.
    ssim_weight: see `losses.restoration_loss`.

  Returns:
    `loss_fn(params, batch_stats, batch)` with `input` and `target`, uint8 in
    0..255 or float in [0, 1] [shots, h, w, c], and `sigma` [shots] for networks
    with a noise map; gives the mean loss and the running statistics.
  """

  def loss_fn(
    params: PyTree, batch_stats: PyTree, batch: Batch
  ) -> tuple[Array, PyTree]:
    options: dict[str, Any] = {}
    if network.needs_sigma:
      options['sigma'] = batch['sigma']
    restored, state = network.apply(
      {'params': params, 'batch_stats': batch_stats},
      as_image(batch['input']),
      train=True,
      mutable=['batch_stats'],
      **options,
    )
    per_example = losses.restoration_loss(
      restored, as_image(batch['target']), ssim_weight=ssim_weight
    )
    return per_example.mean(), state.get('batch_stats', batch_stats)

  return loss_fn


def as_image(x: Array) -> Array:
  """Brings uint8 images in 0..255 to float32 in [0, 1]; leaves floats."""
  return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


class Attenuator(nn.Module):
  """Factors of the parameters from their mean gradients on a task.

  Attributes:
    smallest: lower bound of the factors; the upper one is 1.

  Source: Baik et al., "Learning to Forget for Meta-Learning", CVPR 2020, as
  the program of Ran et al. has it.
  """

  smallest: float = 0.7

  @nn.compact
  def __call__(self, mean_gradients: Array) -> Array:
    """Maps [parameters] to [parameters] in (smallest, 1)."""
    count = mean_gradients.shape[-1]
    hidden = nn.relu(nn.Dense(count, name='hidden')(mean_gradients))
    gate = nn.sigmoid(nn.Dense(count, name='gate')(hidden))
    return self.smallest + (1 - self.smallest) * gate


def make_task_step(
  network: RestorationNetwork,
  tx: optax.GradientTransformation,
  *,
  ssim_weight: float = 5.0,
  inner_steps: int = 2,
  first_order: bool = True,
  inner_schedule: optax.Schedule | None = None,
  multi_step_epochs: int = 0,
  steps_per_epoch: int = 1,
  over_tasks: Literal['scan', 'vmap'] = 'scan',
  remat: bool = False,
  axis_name: str | None = None,
) -> Step:
  """Builds the update by one batch of tasks, for jit, shard_map and pmap.

  The entries of the state are `network`, and as far as they are there
  `inner_learning_rates` (learned if among the parameters) and `attenuator`.

  Args:
    network: to train.
    tx: optimiser of all parameters.
    ssim_weight: see `losses.restoration_loss`.
    inner_steps: steps on each support set.
    first_order: take the inner gradients for constants.
    inner_schedule: inner learning rate of all parameters by outer step, in
      place of those in the state.
    multi_step_epochs: epochs in which the query losses after all inner steps
      count (see `adaptation.multi_step_weights`); 0 takes the last alone.
    steps_per_epoch: length of these epochs.
    over_tasks: see `adaptation.meta_loss`.
    remat: see `adaptation.meta_loss`.
    axis_name: device axis that tasks are spread over.

  Returns:
    `step(state, tasks)` with `support` and `query`, batches [tasks, shots, h,
    w, c]; gives the new state and scalars.
  """
  loss_fn = make_loss_fn(network, ssim_weight=ssim_weight)

  def step(
    state: TrainState, tasks: adaptation.Tasks
  ) -> tuple[TrainState, dict[str, Array]]:
    weights = None
    if multi_step_epochs:
      weights = adaptation.multi_step_weights(
        state.step // steps_per_epoch,
        inner_steps=inner_steps,
        num_epochs=multi_step_epochs,
      )
    batch_stats = state.model_state['network'].get('batch_stats', {})

    def outer_loss(params: PyTree) -> tuple[Array, Any]:
      if inner_schedule is not None:
        rates = inner_schedule(state.step)
      elif 'inner_learning_rates' in params:
        rates = params['inner_learning_rates']
      else:
        rates = state.model_state['inner_learning_rates']
      attenuator = None
      if 'attenuator' in params:
        attenuator = Attenuator(parent=None).bind(
          {'params': params['attenuator']}
        )
      loss, outputs = adaptation.meta_loss(
        loss_fn,
        params['network'],
        batch_stats,
        tasks,
        inner_learning_rate=rates,
        inner_steps=inner_steps,
        first_order=first_order,
        step_weights=weights,
        attenuator=attenuator,
        over_tasks=over_tasks,
        remat=remat,
        axis_name=axis_name,
      )
      return distributed.pmean(loss, axis_name), outputs

    (loss, outputs), gradients = jax.value_and_grad(outer_loss, has_aux=True)(
      state.params
    )
    gradients = distributed.pmean(gradients, axis_name)
    model_state = _with_statistics(state, outputs.batch_stats)
    if 'attenuator' in state.params:
      ring = state.model_state['attenuator']
      model_state['attenuator'] = {
        'factors': ring['factors']
        .at[state.step % len(ring['factors'])]
        .set(outputs.factors)
      }
    metrics = {
      'loss': loss,
      'support_loss': outputs.support_loss[0],
      'query_loss': outputs.query_loss[-1],
      'gradient_norm': optax.tree.norm(gradients),
      'parameter_norm': optax.tree.norm(state.params),
    }
    return state.apply_gradients(gradients, model_state, tx), metrics

  return step


def make_batch_step(
  network: RestorationNetwork,
  tx: optax.GradientTransformation,
  *,
  ssim_weight: float = 5.0,
  axis_name: str | None = None,
) -> Step:
  """Builds the ordinary update by one batch of pairs, for the baselines.

  Args:
    network: to train.
    tx: optimiser.
    ssim_weight: see `losses.restoration_loss`; 0 for L1 alone.
    axis_name: device axis to average over; None on one device.

  Returns:
    `step(state, batch)` with `input` and `target` [b, h, w, c]; gives the new
    state and scalars.
  """
  loss_fn = make_loss_fn(network, ssim_weight=ssim_weight)

  def step(
    state: TrainState, batch: Batch
  ) -> tuple[TrainState, dict[str, Array]]:
    batch_stats = state.model_state['network'].get('batch_stats', {})

    def mean_loss(params: PyTree) -> tuple[Array, PyTree]:
      loss, statistics = loss_fn(params['network'], batch_stats, batch)
      return distributed.pmean((loss, statistics), axis_name)

    (loss, statistics), gradients = jax.value_and_grad(mean_loss, has_aux=True)(
      state.params
    )
    gradients = distributed.pmean(gradients, axis_name)
    metrics = {
      'loss': loss,
      'gradient_norm': optax.tree.norm(gradients),
      'parameter_norm': optax.tree.norm(state.params),
    }
    model_state = _with_statistics(state, statistics)
    return state.apply_gradients(gradients, model_state, tx), metrics

  return step


def _with_statistics(state: TrainState, batch_stats: PyTree) -> dict[str, Any]:
  """The model state with the running statistics of the network replaced."""
  of_network = dict(state.model_state['network'])
  if 'batch_stats' in of_network:
    of_network['batch_stats'] = batch_stats
  return {**state.model_state, 'network': of_network}
