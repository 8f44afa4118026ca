"""Training of a derainer: first the plain network, then all of CoIC."""

import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from coic import evaluate, experiment, losses, negatives, pictures
from coic.contrast import contrast
from coic.encoder import Encoder
from coic.models import Backbone
from coic.views import make_views, RainSearch, Views
from common import (
  configuration,
  distributed,
  image_ops,
  steps,
  training_loop,
)
from common.array_types import Array, Batch, PyTree
from common.checkpoints import export_model
from common.steps import Found, Step
from common.train_state import moving_average, TrainState

_LOGGER = logging.getLogger(__name__)

# By name, of outputs, rainy and clean images; see `coic.losses`.
LOSSES: Mapping[str, Callable[[Any, Array, Array], Array]] = {
  'ssim': lambda out, image, target: losses.ssim_loss(out['restored'], target),
  'l1': lambda out, image, target: losses.l1_loss(out['restored'], target),
  'dgunet': lambda out, image, target: losses.dgunet_loss(
    out['stages'], target
  ),
  'rcdnet': lambda out, image, target: losses.rcdnet_loss(
    out['first_background'],
    out['backgrounds'],
    out['rain_layers'],
    image,
    target,
  ),
}

# Global norm that the gradients of an exploded step are brought to.
_EXPLODED_NORM = 1e-8


def make_update(
  network: Backbone,
  encoder: Encoder,
  tx: optax.GradientTransformation,
  *,
  loss: str = 'ssim',
  contrastive_weight: float = 0.2,
  temperature: float = 1.0,
  momentum: float = 0.999,
  freeze_network: bool = False,
  explosion_limit: float | None = None,
  accumulation_steps: int = 1,
  axis_name: str | None = None,
) -> Step:
  """Builds the update of network and encoder, for jit, shard_map and pmap.

  The entries of the state's parameters are `network` and `encoder`; of its
  model state the same, and `momentum_encoder`.

  Args:
    network: the derainer.
    encoder: the architecture of both encoders.
    tx: optimiser of both.
    loss: of the network, one of `LOSSES`.
    contrastive_weight: of the contrastive loss beside it.
    temperature: of the contrastive loss.
    momentum: of the momentum encoder.
    freeze_network: train the encoder alone.
    explosion_limit: where a restored value is larger than this, the gradients
      all but vanish.
    accumulation_steps: parts of the batch, one after another, to save memory;
      see `common.steps`.
    axis_name: device axis to average over; None on one device.

  Returns:
    `update(state, image, target, views=None)` with RGB in [0, 1], float [b, h,
    w, 3]; gives the new state and scalars. Without views it trains the plain
    network.

  Raises:
    ValueError: there is no such loss.
  """
  if loss not in LOSSES:
    raise ValueError(f'loss {loss!r} must be one of {[*LOSSES]}')
  loss_of = LOSSES[loss]

  def find(
    state: TrainState, image: Array, target: Array, views: Views | None = None
  ) -> Found:
    dropout = distributed.device_key(_step_keys(state)[1], axis_name)
    momentum_params = state.model_state['momentum_encoder']['params']
    # The same on all devices, other than what a device's copies would give.
    moved_params = moving_average(
      momentum_params, state.params['encoder'], decay=momentum
    )

    def loss_fn(
      params: PyTree, model_state: PyTree, batch: Any, part: Array | int
    ) -> tuple[dict[str, Array], PyTree]:
      image, target, views = batch
      model_state = dict(model_state)
      z, terms = None, {}
      if views is not None:
        contrasted = contrast(
          encoder,
          params['encoder'],
          model_state['encoder']['batch_stats'],
          momentum_params,  # Moves once in a step, whatever the parts.
          model_state['momentum_encoder']['batch_stats'],
          *views,
          momentum=momentum,
          temperature=temperature,
        )
        z = contrasted.z
        terms['contrastive_loss'] = contrasted.loss.mean()
        model_state['encoder'] = {'batch_stats': contrasted.batch_stats}
        model_state['momentum_encoder'] = {
          'params': moved_params,
          'batch_stats': contrasted.momentum_batch_stats,
        }
      weights = params['network']
      if freeze_network:
        weights = jax.lax.stop_gradient(weights)
      outputs, model_state['network'] = network.apply(
        {'params': weights, **model_state['network']},
        image,
        z,
        train=True,
        all_outputs=True,
        rngs={'dropout': jax.random.fold_in(dropout, part)},
        mutable=list(model_state['network']),
      )
      terms['restoration_loss'] = loss_of(outputs, image, target).mean()
      terms['loss'] = terms['restoration_loss']
      if views is not None:
        terms['loss'] += contrastive_weight * terms['contrastive_loss']
      if explosion_limit is not None:
        largest = jnp.abs(outputs['restored']).max()
        terms['exploded'] = jnp.float32(largest > explosion_limit)
      return terms, model_state

    return steps.differentiate(
      loss_fn,
      state.params,
      state.model_state,
      (image, target, views),
      accumulation_steps=accumulation_steps,
      axis_name=axis_name,
    )

  def update(
    state: TrainState, found: Found
  ) -> tuple[TrainState, dict[str, Array]]:
    metrics = found.terms | steps.norms(state, found)
    gradients, norm = found.gradients, metrics['gradient_norm']
    if explosion_limit is not None:
      # On one device or in one part is enough.
      exploded = metrics['exploded'] > 0
      scale = jnp.where(exploded, jnp.minimum(1, _EXPLODED_NORM / norm), 1)
      gradients = jax.tree.map(lambda g: scale * g, gradients)
      metrics['exploded'] = jnp.float32(exploded)
    return state.apply_gradients(gradients, found.model_state, tx), metrics

  return Step(find, update)


def make_train_step(
  network: Backbone,
  encoder: Encoder,
  tx: optax.GradientTransformation,
  *,
  num_negatives: int = 4,
  draws: negatives.Draws = 'independent',
  rain_search: RainSearch = 'per_device',
  axis_name: str | None = None,
  **options: Any,
) -> Step:
  """Builds the step on a batch, for jit, shard_map and pmap.

  Args:
    network: the derainer.
    encoder: the architecture of both encoders.
    tx: optimiser of both.
    num_negatives: see `make_views`.
    draws: see `make_views`.
    rain_search: whether each device looks for foreign rain in its own part of
      the batch (and its own bank), or in all of it.
    axis_name: device axis of the batch; None on one device.
    **options: see `make_update`.

  Returns:
    `step(state, batch)` with `input` and `target`, uint8 in 0..255 or float in
    [0, 1] [b, h, w, 3]; gives the new state and scalars. With `whole_input`
    and `whole_target` too, it is a step of the second stage: the network is
    modulated and the encoder trained.

  Raises:
    ValueError: there is no such loss.
  """
  with_views = make_update(network, encoder, tx, axis_name=axis_name, **options)
  own_axis = axis_name if rain_search == 'per_device' else None

  def find(state: TrainState, batch: Batch) -> Found:
    batch = {key: image_ops.as_float(images) for key, images in batch.items()}
    views, model_state = None, dict(state.model_state)
    if 'whole_input' in batch:
      banks = model_state.get('rain', {}).get('banks')
      views, bank = make_views(
        _step_keys(state)[0],
        batch,
        _own_bank(banks, own_axis),
        num_negatives=num_negatives,
        draws=draws,
        rain_search=rain_search,
        axis_name=axis_name,
      )
      if bank is not None:
        banks = jax.tree.map(
          lambda x: distributed.all_rows(x[None], own_axis), bank
        )
        model_state['rain'] = {'banks': banks}
    return with_views.find(
      state.replace(model_state=model_state),
      batch['input'],
      batch['target'],
      views,
    )

  return Step(find, with_views.update)


def _step_keys(state: TrainState) -> Array:
  """Keys of a step: of the views, and of the network."""
  return jax.random.split(jax.random.fold_in(state.rng, state.step))


def _own_bank(
  banks: negatives.RainBank | None, axis_name: str | None
) -> negatives.RainBank | None:
  """This device's bank out of [devices, ...]; all banks are on all devices."""
  index = 0 if axis_name is None else jax.lax.axis_index(axis_name)
  return jax.tree.map(lambda x: x[index], banks)


def make_step(parts: experiment.Experiment, axis_name: str | None) -> Step:
  """Builds the step that a config asks for.

  Args:
    parts: from `experiment.build`.
    axis_name: device axis of the batch; None on one device.

  Returns:
    `step(state, batch)` of `make_train_step`.
  """
  config = parts.config
  return make_train_step(
    parts.network,
    parts.encoder,
    parts.tx,
    loss=config.loss.name,
    explosion_limit=config.loss.explosion_limit,
    freeze_network=config.train.freeze_network,
    contrastive_weight=config.contrast.weight,
    temperature=config.contrast.temperature,
    momentum=config.contrast.momentum,
    num_negatives=config.contrast.num_negatives,
    draws=config.contrast.draws,
    rain_search=config.contrast.rain_search,
    accumulation_steps=config.train.accumulation_steps,
    axis_name=axis_name,
  )


def prepare(
  config: ml_collections.ConfigDict,
) -> tuple[experiment.Experiment, training_loop.Loop, TrainState]:
  """Builds all that a run needs, and writes nothing.

  Args:
    config: as the files in `configs/coic` build it.

  Returns:
    Its parts, its loop, and its first state on all devices.

  Raises:
    FileNotFoundError: data or weights are absent.
    ValueError: a config value does not fit.
  """
  # Devices, pictures, networks, optimiser
  mesh = distributed.make_mesh()
  batch_size = config.train.batch_size
  distributed.require_divisible(batch_size, mesh)
  parts = experiment.build(config)
  state = distributed.place(
    parts.initial_state(mesh.size),
    mesh,
    shard_optimizer=config.train.shard_optimizer,
  )
  count = sum(x.size for x in jax.tree.leaves(state.params['network']))
  _LOGGER.info(
    '%s: %d parameters, %d pairs to learn from, %d devices',
    config.model.name,
    count,
    len(parts.train_pairs.mixture),
    mesh.size,
  )
  parallelism = config.train.parallelism
  step = make_step(parts, distributed.AXIS_NAME)
  step_fn = training_loop.compile_step(step, mesh, config.train)

  show = None
  if config.train.pictures:
    show = pictures.Pictures(parts, rows=batch_size // mesh.size)

  def score(state: TrainState) -> dict[str, float]:
    if show is not None:
      show.restorations.clear()
    # On one device: the pictures differ in size.
    return evaluate.scores_by_set(
      parts.derainer(state),
      parts.test_sets,
      protocols=config.eval.protocols,
      restorations=show.restorations if show else None,
    )

  loop = training_loop.Loop(
    step_fn=step_fn,
    make_batches=lambda position, first_step: (
      distributed.shard_batch(b, mesh, parallelism)
      for b in parts.batches(position, first_step)
    ),
    evaluate=score,
    best_metric=f'mean_{config.eval.protocols[0]}_psnr',
    batch_size=batch_size,
    name_examples=parts.example_names,
    pictures=show,
    **training_loop.loop_options(config.train),
  )
  return parts, loop, state


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, float]:
  """Trains a derainer as a config says, from scratch or where it stopped.

  Args:
    config: as the files in `configs/coic` build it.
    workdir: folder of the run. It gets the resolved config, `metrics.jsonl`,
      pictures, checkpoints and at the end the derainer as `model.safetensors`.
      Where it holds a checkpoint, the run goes on.

  Returns:
    Mean scores of the last state on each test set and protocol, such as
    `rain100l_coic_y_psnr` in decibels, and the means over sets, `mean_...`.

  Raises:
    ValueError: a config value or a checkpoint does not fit.
    FloatingPointError: the loss is not finite any more.
  """
  workdir = pathlib.Path(workdir)
  configuration.write(config, workdir)
  parts, loop, state = prepare(config)
  state, scores = loop.run(state, workdir)
  if jax.process_index() == 0:
    derainer = parts.derainer(state)
    export_model(
      workdir / evaluate.MODEL_FILE,
      derainer.variables,
      {**parts.description(derainer), 'scores': scores},
    )
  return scores
