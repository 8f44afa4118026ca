"""Training steps of CoIC, as `configs/coic/mixed.py` has them."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.peers import arrays
from benchmarks.peers.brn import BRN
from benchmarks.peers.coic import SSIMLoss, Trainer
from benchmarks.peers.contrast import Contrast, gaussian_blur, Views
from benchmarks.peers.drsformer import DRSformer
from benchmarks.peers.encoder import Encoder as PeerEncoder
from benchmarks.side_by_side import Case, Prepared
from coic import convert, experiment, models, negatives, train
from coic.encoder import Encoder
from coic.views import make_views
from common import configuration, image_ops
from common.cost import multiply_adds
from common.train_state import TrainState

_CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'coic' / 'mixed.py'
_SIGMAS = 0.3, 1.5
# Convolutions in front of a BatchNorm: the gradients are rounding errors.
_OF_NO_EFFECT = tuple(f'encoder.resblock.{i}.block.3.bias' for i in range(3))


def cases() -> Iterator[Case]:
  """A step of each stage of BRN, and one of the second of DRSformer.

  DRSformer's crops have half the published side. Compared are the numbers of
  one with a block in each level: in all of them, rounding decides which scores
  are among the largest and which units of a generator are on, of which there
  are few, so that single gradients are others altogether.
  """
  compared = _Recipe(
    'drsformer,coic', batch_size=2, crop=32, model={'blocks': (1, 1, 1, 1)}
  )
  drsformer = _Recipe('drsformer,coic', crop=64, compared=compared)
  for name, recipe in (
    ('coic_step brn plain', _Recipe('brn,baseline')),
    ('coic_step brn coi-m', _Recipe('brn,coic')),
    ('coic_step drsformer', drsformer),
  ):
    yield Case(
      name=name,
      ours=functools.partial(_side, _ours, recipe),
      peer=functools.partial(_side, _peer, recipe),
      # Gradients through all of a network, of two orders of summation. At
      # this size rounding puts pixels on the other side of a rectifier's kink:
      # with the encoder, PyTorch in float32 is up to 0.0072 from itself in
      # float64. One of DRSformer's temperatures differs by 0.2 %, maybe since
      # rounding decides which scores are among the largest.
      tolerance=1e-3 if 'plain' in name else 1e-2,
      multiply_adds=functools.partial(_multiply_adds, recipe),
    )


@dataclasses.dataclass(frozen=True)
class _Recipe:
  """What is trained.

  Attributes:
    argument: of the config.
    batch_size: in place of the config's.
    crop: side in pixels, in place of the config's.
    model: fields of the network, beside the config's.
    compared: whose numbers are compared, in place of these.
  """

  argument: str
  batch_size: int | None = None
  crop: int | None = None
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  compared: '_Recipe | None' = None

  def build(self) -> experiment.Experiment:
    """As `experiment.build`, without pictures, in its stage from step 0 on."""
    config = configuration.load(f'{_CONFIG}:{self.argument}')
    config.train.batch_size = self.batch_size or config.train.batch_size
    config.data.crop = self.crop or config.data.crop
    if config.model.modulated:
      config.train.plain_steps = 0
    model = config.model.to_dict() | dict(self.model)
    del model['weights']
    pairs: Any = None
    return experiment.Experiment(
      model=model,
      network=models.create(**model),
      encoder=Encoder(**config.encoder),
      train_pairs=pairs,
      test_sets={},
      tx=experiment.make_optimizer(config),
      config=config,
    )

  def batch(self) -> dict[str, np.ndarray]:
    """Pictures of dots under streaks, uint8 [b, h, w, 3]."""
    config = self.build().config
    count, side = config.train.batch_size, config.data.crop
    rng = np.random.default_rng(0)

    def pair() -> tuple[np.ndarray, np.ndarray]:
      target = rng.uniform(0, 200, (count, side, side, 3))
      streaks = rng.uniform(0, 55, (count, 1, side, 1))
      return (target + streaks).astype(np.uint8), target.astype(np.uint8)

    images = dict(zip(('input', 'target'), pair(), strict=True))
    if config.model.modulated:
      images |= zip(('whole_input', 'whole_target'), pair(), strict=True)
    return images


def _multiply_adds(recipe: _Recipe) -> int:
  parts = recipe.build()
  state = jax.eval_shape(parts.initial_state)
  return multiply_adds(train.make_step(parts, None), state, recipe.batch())


def _side(make: Callable[[_Recipe], Prepared], recipe: _Recipe) -> Prepared:
  compared, side = recipe.compared, make(recipe)
  if compared is None:
    return side
  return side._replace(values=lambda: make(compared).values())


def _ours(recipe: _Recipe) -> Prepared:
  parts, batch = recipe.build(), recipe.batch()
  state = parts.initial_state()
  step = jax.jit(train.make_step(parts, None), donate_argnums=0)
  lowered = step.lower(state, batch)
  start = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - start

  def values() -> dict[str, Any]:
    new, metrics = compiled(jax.tree.map(jnp.copy, state), batch)
    gradients = _first_gradients(new)
    found: dict[str, Any] = {
      name: x for name, x in metrics.items() if name.endswith('loss')
    }
    network = {'params': gradients['network']}
    found |= _named('network', convert.to_torch(parts.model['name'], network))
    if parts.network.modulated:
      encoder = {'params': gradients['encoder']}
      slow = new.model_state['momentum_encoder']
      found |= _named('encoder', convert.to_torch('encoder', encoder))
      found |= _named('slow', convert.to_torch('encoder', slow))
      found |= _views_without_chance(batch)
    return found

  def run() -> None:
    nonlocal state
    state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))

  return Prepared(run, values, seconds)


def _peer(recipe: _Recipe) -> Prepared:
  parts, batch = recipe.build(), recipe.batch()
  tensors = {name: arrays.channels_first(x) for name, x in batch.items()}
  trainer = _trainer(parts, recipe)
  network, contrast, views = trainer.network, trainer.contrast, trainer.views

  def values() -> dict[str, Any]:
    # Only here are the weights those of ours, lest JAX's memory for them is
    # taken for this side's.
    state = parts.initial_state()
    variables = {'params': state.params['network']}
    arrays.load(network, convert.to_torch(parts.model['name'], variables))
    if contrast is None:
      terms = trainer.gradients(tensors)
    else:
      slow = state.model_state['momentum_encoder']
      for encoder in (contrast.encoder, contrast.momentum_encoder):
        arrays.load(encoder, convert.to_torch('encoder', slow))
      terms = trainer.gradients(tensors, _drawn(parts, state, batch))
    found: dict[str, Any] = {name: x.detach() for name, x in terms.items()}
    found |= _named('network', arrays.gradients(network))
    if contrast is not None:
      found |= _named('encoder', arrays.gradients(contrast.encoder))
      slow = contrast.momentum_encoder.state_dict()
      found |= _named(
        'slow', {k: x for k, x in slow.items() if not k.endswith('tracked')}
      )
      image, target = (tensors[k].float() / 255 for k in ('input', 'target'))
      sigmas = torch.linspace(*_SIGMAS, len(image))
      rain = views.rain_aware_negative(image, target)
      found['rain'] = arrays.channels_last(rain)
      found['blurred'] = arrays.channels_last(gaussian_blur(target, sigmas))
    return found

  return Prepared(lambda: trainer.step(tensors), values)


def _trainer(parts: experiment.Experiment, recipe: _Recipe) -> Trainer:
  """The peer's trainer, with its own first weights."""
  config = parts.config
  modulated = parts.network.modulated
  network = {
    'brn': lambda: BRN(modulated=modulated),
    'drsformer': lambda: DRSformer(**recipe.model),
  }[config.model.name]()
  contrast = views = None
  if modulated:
    contrast = Contrast(PeerEncoder(), momentum=config.contrast.momentum)
    batches = max(config.contrast.rain_bank // config.train.batch_size, 1)
    views = Views(config.contrast.num_negatives, batches)
  late = [] if contrast is None else [*contrast.encoder.parameters()]
  early = []
  for name, x in network.named_parameters():
    (late if 'g2pa' in name or 'context_emb' in name else early).append(x)
  options = config.optimizer
  groups = [
    {'params': early, 'weight_decay': options.weight_decay},
    {'params': late, 'weight_decay': options.late_weight_decay},
  ]
  make = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[options.name]
  return Trainer(
    network=network,
    optimizer=make(groups, lr=options.learning_rate),
    loss={'ssim': SSIMLoss, 'l1': torch.nn.L1Loss}[config.loss.name](),
    contrast=contrast,
    views=views,
    contrastive_weight=config.contrast.weight,
    clip_norm=options.clip_norm,
  )


def _first_gradients(state: TrainState) -> dict[str, Any]:
  """Gradients of a first step, by module: 10 times Adam's first moments."""
  found: dict[tuple[str, ...], Any] = {}
  for _, moments in optax.tree.get_all_with_path(state.opt_state, 'mu'):
    for path, x in jax.tree_util.tree_flatten_with_path(moments)[0]:
      found[tuple(key.key for key in path)] = 10 * x
  return flax.traverse_util.unflatten_dict(found)


def _drawn(
  parts: experiment.Experiment, state: TrainState, batch: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
  """Keys and negatives that our step draws, for the peer."""
  rng, _ = jax.random.split(jax.random.fold_in(state.rng, state.step))
  views, _ = make_views(
    rng,
    {name: image_ops.as_float(jnp.asarray(x)) for name, x in batch.items()},
    None,
    num_negatives=parts.config.contrast.num_negatives,
    draws=parts.config.contrast.draws,
  )
  count = len(views.key)
  others = views.negatives.reshape(-1, *views.key.shape[1:])
  others = arrays.channels_first(others).unflatten(0, (count, -1))
  return arrays.channels_first(views.key), others


def _views_without_chance(batch: Mapping[str, Any]) -> dict[str, Any]:
  """What views are made of, before chance comes in."""
  image, target = (
    image_ops.as_float(jnp.asarray(batch[name])) for name in ('input', 'target')
  )
  sigmas = jnp.linspace(*_SIGMAS, len(image))
  return {
    'rain': negatives.rain_aware_negative(image, target)[0],
    'blurred': image_ops.gaussian_blur(target, sigmas),
  }


def _named(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
  """Values of a part, without those that are rounding errors."""
  named = {f'{part}.{name}': x for name, x in values.items()}
  return {name: x for name, x in named.items() if name not in _OF_NO_EFFECT}
