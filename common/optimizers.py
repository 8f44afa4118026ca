"""Learning-rate schedules and optimisers of the published recipes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common.array_types import ArrayLike, PyTree
from common.layers.materialized import materialized

SCHEDULES = ('constant', 'cosine', 'step')
_UPDATES = 'adam', 'sgd', 'adamw', 'lamb'
_SMALL = 1 << 16  # Entries, of which a copy costs next to nothing.

MaskFunction = Callable[[PyTree], PyTree]


def learning_rate_schedule(
  kind: str,
  *,
  learning_rate: float,
  num_steps: int,
  warmup_steps: int = 0,
  warmup_learning_rate: float = 0.0,
  final_learning_rate: float = 0.0,
  decay_steps: int = 0,
  decay_rate: float = 0.1,
  hold_steps: int = 1,
) -> optax.Schedule:
  """Linear warm-up, then constant, cosine or stepwise decay.

  The decay runs over all of `num_steps`: warm-up hides its beginning and does
  not shift it (the convention of timm).

  Args:
    kind: 'constant', 'cosine' or 'step'.
    learning_rate: the base rate.
    num_steps: length of the run.
    warmup_steps: length of the warm-up; 0 for none.
    warmup_learning_rate: rate of the first warm-up step.
    final_learning_rate: rate that the cosine ends at.
    decay_steps: steps between two drops of 'step'.
    decay_rate: factor of each drop.
    hold_steps: the rate changes only every so many steps: the steps of an
      epoch give the published schedules, 1 a smooth one.

  Returns:
    A function of the step, for optax.

  Raises:
    ValueError: unknown kind, or lengths that are out of range.

  Source: timm 0.6.5 schedulers, which the published recipes use.
  """
  if kind not in SCHEDULES:
    raise ValueError(f'schedule {kind!r} must be one of {", ".join(SCHEDULES)}')
  if kind == 'step' and decay_steps < 1:
    raise ValueError(f"decay_steps {decay_steps} of 'step' must be positive")
  if hold_steps < 1 or num_steps < 1 or warmup_steps < 0:
    raise ValueError(
      f'hold_steps {hold_steps} and num_steps {num_steps} must be positive, '
      f'warmup_steps {warmup_steps} not negative'
    )

  def schedule(count: ArrayLike) -> jax.Array:
    step = jnp.asarray(count) // hold_steps * hold_steps
    if kind == 'cosine':
      # (1 + cos x) / 2 = sin^2((pi - x) / 2), without the cancellation.
      remaining = jnp.maximum(num_steps - step, 0) / num_steps
      wave = jnp.square(jnp.sin(0.5 * jnp.pi * remaining))
      span = learning_rate - final_learning_rate
      rate = final_learning_rate + span * wave
    elif kind == 'step':
      rate = learning_rate * decay_rate ** (step // decay_steps)
    else:
      rate = jnp.full((), learning_rate)
    slope = (learning_rate - warmup_learning_rate) / max(warmup_steps, 1)
    warmup = warmup_learning_rate + step * slope
    return jnp.where(step < warmup_steps, warmup, rate)

  return schedule


def weight_decay_mask(params: PyTree) -> PyTree:
  """Marks the parameters that weight decay applies to.

  Those of two or more axes that are not biases, as in timm; class tokens,
  position embeddings and relative position tables are among them.

  Args:
    params: parameters of a module.

  Returns:
    The same tree with a bool per parameter.
  """

  def is_decayed(path: tuple[Any, ...], x: jax.Array) -> bool:
    return x.ndim >= 2 and path[-1].key != 'bias'

  return jax.tree_util.tree_map_with_path(is_decayed, params)


def make_optimizer(
  name: str,
  *,
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: float = 0.0,
  momentum: float = 0.9,
  b1: float = 0.9,
  b2: float = 0.999,
  epsilon: float = 1e-8,
  clip_norm: float | None = None,
  clip_value: float | None = None,
  decay_all: bool = False,
  first_update: int | None = None,
) -> optax.GradientTransformation:
  """An optimiser of the published recipes, as an optax chain.

  Args:
    name: 'sgd' (Nesterov momentum, decay added to the gradient), 'adam' (decay
      of all parameters added to the gradient, before the moments), 'adamw'
      (decoupled decay) or 'lamb' (decay in the update, trust ratio for the
      decayed parameters only).
    learning_rate: a number or an optax schedule.
    weight_decay: factor, >= 0.
    momentum: of 'sgd'.
    b1: decay of the first moment of 'adam', 'adamw' and 'lamb'.
    b2: decay of the second moment.
    epsilon: added to the root of the second moment; LAMB publishes 1e-6.
    clip_norm: limit of the global gradient norm over all parameters together;
      None for no limit.
    clip_value: limit of each entry of the gradient, applied first.
    decay_all: let 'sgd', 'adamw' and 'lamb' decay all parameters, as PyTorch
      does, and not those of `weight_decay_mask` alone.
    first_update: number of the update, counted from 0, before which parameters
      and the optimiser's state stay as they are; None for no such wait.

  Returns:
    An optax gradient transformation.

  Raises:
    ValueError: unknown name.

  Source: timm 0.6.5 optimisers, which the published recipes of RSD use, and
  PyTorch's Adam, which those of TRNR and CoIC do.
  """
  if name not in _UPDATES:
    raise ValueError(f'optimizer {name!r} must be one of {", ".join(_UPDATES)}')
  if callable(learning_rate):
    learning_rate = computed_once(learning_rate)
  clips = [optax.clip(clip_value)] if clip_value else []
  clips += [clip_by_global_norm(clip_norm)] if clip_norm else []

  def make(mask: MaskFunction) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(weight_decay, mask)
    moments = optax.scale_by_adam(b1, b2, epsilon)
    chains = {
      'adam': (optax.add_decayed_weights(weight_decay), moments),
      'sgd': (decay, optax.trace(momentum, nesterov=True)),
      'adamw': (moments, decay),
      'lamb': (
        moments,
        decay,
        optax.masked(optax.scale_by_trust_ratio(), mask),
      ),
    }
    rate = optax.scale_by_learning_rate(learning_rate)
    chain = optax.chain(*clips, *chains[name], rate)
    return chain if first_update is None else _from_update(chain, first_update)

  everything = decay_all or name == 'adam'
  mask = _everything if everything else weight_decay_mask
  # A trust ratio is of each parameter.
  return make(mask) if name == 'lamb' else _small_together(make, mask)


def _small_together(
  make: Callable[[MaskFunction], optax.GradientTransformation],
  mask: MaskFunction,
) -> optax.GradientTransformation:
  """The optimiser of a mask; on CPUs, small parameters are updated as one.

  XLA's CPU backend compiles three kernels for each parameter, of up to fifty
  operations each, which can be most of a training step's program.

  Args:
    make: an optimiser that treats all entries alike, but for a mask.
    mask: of the parameters.

  Returns:
    An optimiser whose state is that of `make(mask)`.
  """
  plain = make(mask)

  def update(
    updates: PyTree, state: optax.OptState, params: PyTree | None = None
  ) -> tuple[PyTree, optax.OptState]:
    if params is None or jax.default_backend() != 'cpu':
      return plain.update(updates, state, params)
    packing = _Packing(params, mask(params))
    if not packing.worthwhile:
      return plain.update(updates, state, params)
    flags = packing.flags
    updates, state = make(lambda _: flags).update(
      packing.pack(updates),
      _of_parameters(packing.pack, state, params),
      packing.pack(params),
    )
    return packing.unpack(updates), _of_parameters(packing.unpack, state, flags)

  return optax.GradientTransformation(plain.init, update)


class _Packing:
  """Trees like those of parameters, with small leaves in one or two vectors.

  Attributes:
    flags: mask of a packed tree.
    worthwhile: whether there are leaves to join.
  """

  def __init__(self, params: PyTree, mask: PyTree):
    leaves, self._structure = jax.tree.flatten(params)
    marks = jax.tree.leaves(mask)
    self._shapes = [x.shape for x in leaves]
    small = [x.size <= _SMALL and x.dtype == jnp.float32 for x in leaves]
    self._large = [i for i, is_small in enumerate(small) if not is_small]
    self._joined = [
      places
      for mark in (True, False)
      if (places := [i for i, x in enumerate(marks) if small[i] and x is mark])
    ]
    self.worthwhile = sum(small) > len(self._joined)
    self.flags = {
      'large': [marks[i] for i in self._large],
      'joined': [marks[places[0]] for places in self._joined],
    }

  def pack(self, tree: PyTree) -> PyTree:
    """Leaves that are large, and vectors of the others."""
    leaves = jax.tree.leaves(tree)
    return {
      'large': [leaves[i] for i in self._large],
      'joined': [
        jnp.concatenate([leaves[i].ravel() for i in places])
        for places in self._joined
      ],
    }

  def unpack(self, packed: PyTree) -> PyTree:
    """The tree whose leaves `pack` was given."""
    leaves = dict(zip(self._large, packed['large'], strict=True))
    for places, vector in zip(self._joined, packed['joined'], strict=True):
      ends = np.cumsum([math.prod(self._shapes[i]) for i in places])
      parts = jnp.split(materialized(vector), ends[:-1])
      for i, part in zip(places, parts, strict=True):
        leaves[i] = part.reshape(self._shapes[i])
    return jax.tree.unflatten(
      self._structure, [leaves[i] for i in range(len(leaves))]
    )


def _of_parameters(
  function: Callable[[PyTree], PyTree], state: PyTree, params: PyTree
) -> PyTree:
  """Maps what in an optimiser's state is a tree like the parameters."""
  structure: Any = jax.tree.structure(params)

  def is_like(tree: PyTree) -> bool:
    return bool(jax.tree.structure(tree) == structure)

  return jax.tree.map(
    lambda x: function(x) if is_like(x) else x, state, is_leaf=is_like
  )


def global_norm(tree: PyTree) -> jax.Array:
  """Root of the sum of the squares of all entries, a scalar.

  Args:
    tree: real arrays, at least one.
  """
  leaves = jax.tree.leaves(tree)
  if jax.default_backend() == 'cpu':
    # XLA's CPU backend compiles three kernels for the sum over a leaf.
    small = [x.ravel() for x in leaves if x.size <= _SMALL]
    leaves = [x for x in leaves if x.size > _SMALL]
    leaves += [jnp.concatenate(small)] if small else []
  return jnp.sqrt(sum(jnp.square(x).sum() for x in leaves))


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
  """Scales gradients by limit / (norm + 1e-6), if that is less than 1.

  Args:
    limit: of the norm of all gradients together.

  Source: PyTorch's `clip_grad_norm_`; that of optax lacks the 1e-6.
  """

  def clip(gradients: PyTree, params: PyTree) -> PyTree:
    del params
    factor = limit / (global_norm(gradients) + 1e-6)
    factor = materialized(jnp.minimum(factor, 1.0))
    return jax.tree.map(lambda x: x * factor, gradients)

  return optax.stateless(clip)


def computed_once(schedule: optax.Schedule) -> optax.Schedule:
  """The same, and not anew in the update of each parameter (XLA on CPUs)."""
  return lambda count: materialized(jnp.asarray(schedule(count)))


def _from_update(
  inner: optax.GradientTransformation, first: int
) -> optax.GradientTransformationExtraArgs:
  """What `optax.conditionally_mask` makes of a condition, by selection.

  XLA's CPU backend cannot fuse a condition with what comes before and after.
  """
  inner = optax.with_extra_args_support(inner)

  def init(params: PyTree) -> optax.transforms.ConditionallyMaskState:
    step = jnp.zeros((), jnp.int32)
    return optax.transforms.ConditionallyMaskState(step, inner.init(params))

  def update(
    updates: PyTree,
    state: optax.transforms.ConditionallyMaskState,
    params: PyTree | None = None,
    **extra: Any,
  ) -> tuple[PyTree, optax.transforms.ConditionallyMaskState]:
    active = state.step >= first
    updates, new = inner.update(updates, state.inner_state, params, **extra)
    updates = jax.tree.map(lambda x: jnp.where(active, x, 0), updates)
    kept = jax.tree.map(
      lambda new, old: jnp.where(active, new, old), new, state.inner_state
    )
    step = optax.safe_increment(state.step)
    return updates, optax.transforms.ConditionallyMaskState(step, kept)

  return optax.GradientTransformationExtraArgs(init, update)


def _everything(params: PyTree) -> PyTree:
  return jax.tree.map(lambda _: True, params)
