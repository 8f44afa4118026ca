"""Training steps: gradients on each device, one update, any number of devices.

A *step* is a function `step(state, batch, *constants)` that sees one device's
share of the batch, takes means over the axis `distributed.AXIS_NAME`, and
returns values that are the same on every device. `map_step` runs it on a mesh.

Accumulating gradients over parts of a batch saves memory, and means the same
for losses that are means over examples. Losses that couple the examples of a
batch, and BatchNorm, only couple those of one part: with k accumulation steps
on n devices, statistics `per_device` are of 1 / (n k) of the batch, and
`global` ones of 1 / k of it. So k parts on one device are as k devices.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from common import distributed, optimizers, train_state
from common.array_types import Array, PyTree
from common.train_state import TrainState

Metrics = dict[str, Array]

# A metric of steps that can leave the state as it was: 1 where they did.
SKIPPED = 'skipped'


class Found(NamedTuple):
  """What a batch says about the parameters; the same on all devices.

  Attributes:
    gradients: of the loss.
    model_state: after the batch.
    terms: means of what the loss function gave.
  """

  gradients: PyTree
  model_state: PyTree
  terms: dict[str, Array]


class MappedStep(Protocol):
  """A step on all devices of a mesh, from `map_step`."""

  def __call__(
    self, state: PyTree, batch: PyTree, /, *constants: PyTree
  ) -> Any:
    """Runs it; compiles it for new shapes."""

  def lower(
    self, state: PyTree, batch: PyTree, /, *constants: PyTree
  ) -> jax.stages.Lowered:
    """Traces it for arguments of these shapes and places."""


@dataclasses.dataclass(frozen=True)
class Step:
  """A training step: what is found on the devices, and what follows from it.

  Called, it does both, under jit, shard_map or pmap.

  Attributes:
    find: `(state, batch, *constants) -> Found`, on each device. It must not
      read the optimiser's state, which may lie elsewhere.
    update: `(state, found) -> (state, metrics)`, without communication.
  """

  find: Callable[..., Found]
  update: Callable[[TrainState, Found], tuple[TrainState, Metrics]]

  def __call__(
    self, state: TrainState, batch: PyTree, *constants: PyTree
  ) -> tuple[TrainState, Metrics]:
    """The state after the step, and scalars."""
    return self.update(state, self.find(state, batch, *constants))


def differentiate(
  loss_fn: Callable[..., tuple[dict[str, Array], PyTree]],
  params: PyTree,
  model_state: PyTree,
  batch: PyTree,
  *,
  accumulation_steps: int = 1,
  axis_name: str | None = None,
) -> Found:
  """Gradients of a loss, as means over devices and parts of the batch.

  Each device differentiates the sum of the losses of all devices with respect
  to its own copy of the parameters, and the mean over devices is taken once,
  when all parts are through: the gradients cross the network once in a step.
  That takes copies that may differ; for parameters that devices share,
  `shard_map` would sum the gradients by itself, in every part.

  Args:
    loss_fn: `(params, model_state, batch, part) -> (terms, model_state)` on one
      device's share of one part; `terms['loss']` is what is differentiated, and
      `part` the number of the part. What of the model state is no average over
      devices must not follow from `params`, the device's copies.
    params: the parameters.
    model_state: collections by module. It goes from part to part.
    batch: arrays [b, ...].
    accumulation_steps: how many parts, one after another, >= 1. See the module
      for what that means to losses that couple examples.
    axis_name: device axis of the batch; None on one device.

  Returns:
    See `Found`.

  Raises:
    ValueError: the parts do not divide the device's share of the batch.
  """

  def loss_of_device(
    params: PyTree, model_state: PyTree, piece: PyTree, part: Array | int
  ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    terms, model_state = loss_fn(params, model_state, piece, part)
    model_state = train_state.average_statistics(model_state, axis_name)
    # One that devices have taken together is each one's own all the same.
    loss = distributed.varying_like(terms['loss'], piece)
    return loss, (terms, model_state)

  def find(model_state: PyTree, piece: PyTree, part: Array | int) -> Found:
    copies = distributed.varying_like(params, piece)
    gradients, (terms, model_state) = jax.grad(loss_of_device, has_aux=True)(
      copies, model_state, piece, part
    )
    return Found(gradients, model_state, terms)

  def over_devices(
    gradients: PyTree, model_state: PyTree, terms: dict[str, Array]
  ) -> Found:
    gradients, terms = distributed.pmean((gradients, terms), axis_name)
    return Found(gradients, model_state, terms)

  if accumulation_steps == 1:
    return over_devices(*find(model_state, batch, 0))

  def split(x: Array) -> Array:
    if len(x) % accumulation_steps:
      raise ValueError(
        f'accumulation_steps {accumulation_steps} must divide the {len(x)} '
        'rows of a device'
      )
    return x.reshape(accumulation_steps, -1, *x.shape[1:])

  def body(
    carry: tuple[PyTree, PyTree], numbered: tuple[Array, PyTree]
  ) -> tuple[tuple[PyTree, PyTree], dict[str, Array]]:
    total, model_state = carry
    part, piece = numbered
    found = find(model_state, piece, part)
    total = jax.tree.map(jnp.add, total, found.gradients)
    return (total, found.model_state), found.terms

  zeros = jax.tree.map(jnp.zeros_like, params)
  zeros = distributed.varying_like(zeros, batch)
  (total, model_state), terms = jax.lax.scan(
    body,
    (zeros, model_state),
    (jnp.arange(accumulation_steps), jax.tree.map(split, batch)),
  )
  gradients = jax.tree.map(lambda x: x / accumulation_steps, total)
  terms = jax.tree.map(lambda x: x.mean(axis=0), terms)
  return over_devices(gradients, model_state, terms)


def skip_non_finite(step: Step) -> Step:
  """A step that leaves the state be, but for its count, if it would break.

  Args:
    step: its metrics have `loss` and `gradient_norm`.

  Returns:
    A step with one more metric, `SKIPPED`: 1 where either is not finite.
  """

  def update(state: TrainState, found: Found) -> tuple[TrainState, Metrics]:
    new, metrics = step.update(state, found)
    finite = jnp.isfinite(metrics['gradient_norm'])
    finite &= jnp.isfinite(metrics['loss'])
    kept = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      new,
      state.replace(step=new.step),
    )
    return kept, {**metrics, SKIPPED: jnp.float32(~finite)}

  return Step(step.find, update)


def norms(state: TrainState, found: Found) -> Metrics:
  """`gradient_norm` and `parameter_norm`, for the metrics of a step."""
  return {
    'gradient_norm': optimizers.global_norm(found.gradients),
    'parameter_norm': optimizers.global_norm(state.params),
  }


def update_by(
  tx: optax.GradientTransformation,
) -> Callable[[TrainState, Found], tuple[TrainState, Metrics]]:
  """The second half of a step that does nothing but take one of the optimiser.

  Args:
    tx: the optimiser.

  Returns:
    `(state, found) -> (state, metrics)`; the norms are of the gradients, and of
    the parameters before the update.
  """

  def update(state: TrainState, found: Found) -> tuple[TrainState, Metrics]:
    metrics = found.terms | norms(state, found)
    new = state.apply_gradients(found.gradients, found.model_state, tx)
    return new, metrics

  return update


def map_step(
  step: Callable[..., Any],
  mesh: Mesh,
  *,
  parallelism: str = 'shard_map',
  donate_state: bool = False,
  shard_optimizer: bool = False,
  least_memory: bool = False,
) -> MappedStep:
  """Compiles a per-device step for all devices of a mesh.

  Args:
    step: `step(state, batch, *constants)` as the module docstring describes.
    mesh: from `distributed.make_mesh`.
    parallelism: 'shard_map' or 'pmap'.
    donate_state: reuse the memory of `state` for the result ('shard_map' only;
      pmap keeps a broadcast argument).
    shard_optimizer: each device keeps and updates its part of the optimiser's
      state, as `distributed.place` lays it out ('shard_map' and a `Step` only).
    least_memory: on CPUs, order the step so that it holds the least at a time
      ('shard_map' only), see `_LeastMemory`.

  Returns:
    A function of the state, a batch from `distributed.shard_batch` and the
    constants, with the same results as the step.

  Raises:
    ValueError: unknown parallelism, or one that cannot do what is asked for.
  """
  if parallelism not in distributed.PARALLELISMS:
    raise ValueError(
      f'parallelism {parallelism!r} must be one of '
      f'{", ".join(distributed.PARALLELISMS)}'
    )
  if parallelism == 'pmap':
    if shard_optimizer:
      raise ValueError("parallelism 'pmap' cannot shard the optimiser's state")
    return _Pmapped(step, mesh)

  everywhere, split = PartitionSpec(), PartitionSpec(distributed.AXIS_NAME)

  def mapped(
    function: Callable[..., Any], state: PyTree, batch: PyTree, *constants: Any
  ) -> Any:
    return jax.shard_map(
      function,
      mesh=mesh,
      in_specs=(everywhere, split, *(everywhere,) * len(constants)),
      out_specs=everywhere,
    )(state, batch, *constants)

  def sharded(
    state: TrainState, batch: PyTree, *constants: PyTree
  ) -> tuple[TrainState, Metrics]:
    assert isinstance(step, Step)
    found = mapped(step.find, state.replace(opt_state=()), batch, *constants)
    new, metrics = step.update(state, found)
    layout = distributed.layout(new, mesh, shard_optimizer=True)
    return jax.lax.with_sharding_constraint(new, layout), metrics

  function = sharded if shard_optimizer else functools.partial(mapped, step)
  donate = (0,) if donate_state else ()
  if least_memory and mesh.devices.flat[0].platform == 'cpu':
    return _LeastMemory(function, donate)
  return jax.jit(function, donate_argnums=donate)


class _LeastMemory:
  """A jitted step for CPUs, in the order that holds the least at a time.

  By default, XLA's CPU backend puts everything as early as it can, so that
  much may run at once, and what it gives is there together. For a step of one
  network, the default is the faster order, and takes no more memory.
  """

  def __init__(self, function: Callable[..., Any], donate: tuple[int, ...]):
    self._inner = jax.jit(function, donate_argnums=donate)
    self._outer = jax.jit(
      function, donate_argnums=donate, compiler_options=_cpu_options()
    )

  def __call__(
    self, state: PyTree, batch: PyTree, /, *constants: PyTree
  ) -> Any:
    arguments = (state, batch, *constants)
    # JAX takes options of the compiler for the outermost program only.
    traced = any(
      isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arguments)
    )
    return (self._inner if traced else self._outer)(*arguments)

  def lower(
    self, state: PyTree, batch: PyTree, /, *constants: PyTree
  ) -> jax.stages.Lowered:
    return self._outer.lower(state, batch, *constants)


@functools.cache
def _cpu_options() -> dict[str, str] | None:
  """Options of XLA's CPU backend, where this version of it has them."""
  options = {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:
    return None
  return options


class _Pmapped:
  """A step under pmap, for any number of constants."""

  def __init__(self, step: Callable[..., Any], mesh: Mesh):
    self._step, self._mesh = step, mesh
    self._mapped = functools.cache(self._map)

  def __call__(
    self, state: PyTree, batch: PyTree, /, *constants: PyTree
  ) -> Any:
    found = self._mapped(len(constants))(state, batch, *constants)
    if jax.process_count() > 1:
      return distributed.of_all_processes(found, self._mesh)
    return found

  def lower(
    self, state: PyTree, batch: PyTree, /, *constants: PyTree
  ) -> jax.stages.Lowered:
    return self._mapped(len(constants)).lower(state, batch, *constants)

  def _map(self, num_constants: int) -> Any:
    return jax.pmap(
      self._step,
      axis_name=distributed.AXIS_NAME,
      in_axes=(None, 0, *(None,) * num_constants),
      out_axes=None,
      devices=list(self._mesh.devices.flat),
    )
