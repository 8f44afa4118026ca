"""Training on tasks, or on plain batches for the baselines."""

import logging
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_collections
import optax

from common import configuration, distributed, image_ops, steps, training_loop
from common.array_types import Array, ArrayLike, Batch, PyTree
from common.checkpoints import export_model
from common.steps import Found, Step
from common.train_state import TrainState
from trnr import adaptation, attenuation, evaluate, experiment, losses, pictures
from trnr.models import RestorationNetwork

_LOGGER = logging.getLogger(__name__)


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
      image_ops.as_float(batch['input']),
      train=True,
      mutable=['batch_stats'],
      **options,
    )
    per_example = losses.restoration_loss(
      restored, image_ops.as_float(batch['target']), ssim_weight=ssim_weight
    )
    return per_example.mean(), state.get('batch_stats', batch_stats)

  return loss_fn


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
  accumulation_steps: int = 1,
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
      count (see `query_weights`); 0 takes the last alone.
    steps_per_epoch: length of these epochs.
    over_tasks: see `adaptation.meta_loss`.
    remat: see `adaptation.meta_loss`.
    accumulation_steps: parts of the batch, one after another, to save memory.
    axis_name: device axis that tasks are spread over.

  Returns:
    `step(state, tasks)` with `support` and `query`, batches [tasks, shots, h,
    w, c]; gives the new state and scalars.
  """
  loss_fn = make_loss_fn(network, ssim_weight=ssim_weight)

  def find(state: TrainState, tasks: adaptation.Tasks) -> Found:
    weights = None
    if multi_step_epochs:
      weights = query_weights(
        state.step // steps_per_epoch,
        inner_steps=inner_steps,
        num_epochs=multi_step_epochs,
      )

    def outer_loss(
      params: PyTree,
      model_state: PyTree,
      tasks: adaptation.Tasks,
      part: Array | int,
    ) -> tuple[dict[str, Array], PyTree]:
      del part
      if inner_schedule is not None:
        rates = inner_schedule(state.step)
      elif 'inner_learning_rates' in params:
        rates = params['inner_learning_rates']
      else:
        rates = model_state['inner_learning_rates']
      attenuator = None
      if 'attenuator' in params:
        attenuator = attenuation.Attenuator(parent=None).bind(
          {'params': distributed.varying_like(params['attenuator'], tasks)}
        )
      loss, outputs = adaptation.meta_loss(
        loss_fn,
        params['network'],
        model_state['network'].get('batch_stats', {}),
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
      terms = {
        'loss': loss,
        'support_loss': outputs.support_loss[0],
        'query_loss': outputs.query_loss[-1],
      }
      if 'attenuator' in params:
        terms['factors'] = outputs.factors
      return terms, _with_statistics(model_state, outputs.batch_stats)

    return steps.differentiate(
      outer_loss,
      state.params,
      state.model_state,
      tasks,
      accumulation_steps=accumulation_steps,
      axis_name=axis_name,
    )

  def update(
    state: TrainState, found: Found
  ) -> tuple[TrainState, dict[str, Array]]:
    if 'attenuator' in state.params:
      terms, model_state = dict(found.terms), found.model_state
      ring = model_state['attenuator']['factors']
      ring = ring.at[state.step % len(ring)].set(terms.pop('factors'))
      model_state = {**model_state, 'attenuator': {'factors': ring}}
      found = Found(found.gradients, model_state, terms)
    return steps.update_by(tx)(state, found)

  return Step(find, update)


def query_weights(
  epoch: ArrayLike, *, inner_steps: int, num_epochs: int
) -> Array:
  """Weights of the query losses after each inner step, by epoch.

  Args:
    epoch: epochs done.
    inner_steps: number of inner steps.
    num_epochs: epochs in which they are those of
      `adaptation.multi_step_weights`; from then on the last counts alone.

  Returns:
    Float32 [inner_steps], of sum 1.

  Source: Ran et al., the program.
  """
  early = adaptation.multi_step_weights(
    epoch, inner_steps=inner_steps, num_epochs=num_epochs
  )
  last = jax.nn.one_hot(inner_steps - 1, inner_steps)
  return jnp.where(jnp.asarray(epoch) < num_epochs, early, last)


def make_batch_step(
  network: RestorationNetwork,
  tx: optax.GradientTransformation,
  *,
  ssim_weight: float = 5.0,
  accumulation_steps: int = 1,
  axis_name: str | None = None,
) -> Step:
  """Builds the ordinary update by one batch of pairs, for the baselines.

  Args:
    network: to train.
    tx: optimiser.
    ssim_weight: see `losses.restoration_loss`; 0 for L1 alone.
    accumulation_steps: parts of the batch, one after another, to save memory;
      see `common.steps`.
    axis_name: device axis to average over; None on one device.

  Returns:
    `step(state, batch)` with `input` and `target` [b, h, w, c]; gives the new
    state and scalars.
  """
  loss_fn = make_loss_fn(network, ssim_weight=ssim_weight)

  def find(state: TrainState, batch: Batch) -> Found:
    def mean_loss(
      params: PyTree, model_state: PyTree, batch: Batch, part: Array | int
    ) -> tuple[dict[str, Array], PyTree]:
      del part
      batch_stats = model_state['network'].get('batch_stats', {})
      loss, batch_stats = loss_fn(params['network'], batch_stats, batch)
      return {'loss': loss}, _with_statistics(model_state, batch_stats)

    return steps.differentiate(
      mean_loss,
      state.params,
      state.model_state,
      batch,
      accumulation_steps=accumulation_steps,
      axis_name=axis_name,
    )

  return Step(find, steps.update_by(tx))


def _with_statistics(model_state: PyTree, batch_stats: PyTree) -> PyTree:
  """The model state with the running statistics of the network replaced."""
  of_network = dict(model_state['network'])
  if 'batch_stats' in of_network:
    of_network['batch_stats'] = batch_stats
  return {**model_state, 'network': of_network}


def make_step(parts: experiment.Experiment, axis_name: str | None) -> Step:
  """Builds the update that a config asks for.

  Args:
    parts: from `experiment.build`.
    axis_name: device axis of the batch; None on one device.

  Returns:
    `step(state, batch)` of `make_task_step` or `make_batch_step`.
  """
  config = parts.config
  if config.sampling.name != 'rcs':
    return make_batch_step(
      parts.network,
      parts.tx,
      ssim_weight=config.loss.ssim_weight,
      accumulation_steps=config.train.accumulation_steps,
      axis_name=axis_name,
    )
  block = config.adaptation
  follows_outer = block.learning_rates == 'outer'
  return make_task_step(
    parts.network,
    parts.tx,
    ssim_weight=config.loss.ssim_weight,
    inner_steps=block.inner_steps,
    first_order=block.first_order,
    inner_schedule=parts.schedule if follows_outer else None,
    multi_step_epochs=block.multi_step_epochs,
    steps_per_epoch=parts.steps_per_epoch,
    over_tasks=block.over_tasks,
    remat=block.remat,
    accumulation_steps=config.train.accumulation_steps,
    axis_name=axis_name,
  )


def prepare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  network: RestorationNetwork | None = None,
  keep_patches: bool = True,
) -> tuple[experiment.Experiment, training_loop.Loop, TrainState]:
  """Builds all that a run needs.

  Args:
    config: as the files in `configs/trnr` build it.
    workdir: folder of the run, see `experiment.build`.
    network: see `experiment.build`, as for the next one.
    keep_patches: see there.

  Returns:
    Its parts, its loop, and its first state on all devices.

  Raises:
    FileNotFoundError: data are absent.
    ValueError: a config value does not fit.
  """
  # Devices, pictures, network, optimiser
  mesh = distributed.make_mesh()
  parts = experiment.build(
    config, workdir, network=network, keep_patches=keep_patches
  )
  distributed.require_divisible(parts.batch_size, mesh)
  parallelism = config.train.parallelism
  state = distributed.place(
    parts.initial_state(), mesh, shard_optimizer=config.train.shard_optimizer
  )
  count = sum(x.size for x in jax.tree.leaves(state.params['network']))
  _LOGGER.info(
    '%s: %d parameters, %d devices', config.model.name, count, mesh.size
  )
  step = make_step(parts, distributed.AXIS_NAME)
  step_fn = training_loop.compile_step(step, mesh, config.train)
  show = pictures.Pictures(parts) if config.train.pictures else None

  def score(state: TrainState) -> dict[str, float]:
    if show is not None:
      show.restorations.clear()
    # On one device: the pictures differ in size.
    return evaluate.scores_by_strength(
      parts.network,
      jax.device_get(experiment.network_variables(state)),
      parts.test_pairs,
      protocols=config.eval.protocols,
      sigmas=config.eval.sigmas,
      restorations=show.restorations if show else None,
    )

  first_protocol = config.eval.protocols[0]
  prefix = f'sigma{config.eval.sigmas[0]:g}_' if config.eval.sigmas else ''
  best_metric = f'{prefix}{first_protocol}_psnr'
  loop = training_loop.Loop(
    step_fn=step_fn,
    make_batches=lambda position, first_step: (
      distributed.shard_batch(b, mesh, parallelism)
      for b in parts.make_batches(position)
    ),
    evaluate=score,
    best_metric=best_metric,
    batch_size=parts.batch_size,
    name_examples=parts.example_names,
    pictures=show,
    **training_loop.loop_options(config.train),
  )
  return parts, loop, state


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  network: RestorationNetwork | None = None,
) -> dict[str, float]:
  """Trains a network as a config says, from scratch or where it stopped.

  Args:
    config: as the files in `configs/trnr` build it.
    workdir: folder of the run. It gets the resolved config, the patch
      analysis, `metrics.jsonl`, pictures, checkpoints and at the end the
      network as `model.safetensors`. Where it holds a checkpoint, the run goes
      on.
    network: of one's own, to train in place of the one that `config.model`
      builds; `config.model` is then kept as its description.

  Returns:
    Mean scores of the last state on the test pictures: for each protocol
    `PROTOCOL_psnr` in decibels and `PROTOCOL_ssim`, and of the degraded
    pictures `PROTOCOL_input_psnr` and `PROTOCOL_input_ssim`.

  Raises:
    ValueError: a config value or a checkpoint does not fit.
    FloatingPointError: the loss is not finite any more.
  """
  workdir = pathlib.Path(workdir)
  configuration.write(config, workdir)
  parts, loop, state = prepare(config, workdir, network=network)
  state, scores = loop.run(state, workdir)
  if jax.process_index() == 0:
    export_model(
      workdir / experiment.MODEL_FILE,
      experiment.exported_variables(state),
      {'model': parts.description, 'scores': scores},
    )
  return scores
