"""Meshes, collectives, and where arrays of a run lie."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from common.array_types import PyTree

AXIS_NAME = 'batch'
PARALLELISMS = ('shard_map', 'pmap')
# Whether what couples examples couples those of a device, or of the batch.
STATISTICS = ('per_device', 'global')


def pmean(tree: PyTree, axis_name: str | None) -> PyTree:
  """Mean of every leaf over the devices of `axis_name`; None leaves it be."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def psum(tree: PyTree, axis_name: str | None) -> PyTree:
  """Sum of every leaf over the devices of `axis_name`; None leaves it be."""
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def all_rows(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Rows of all devices of `axis_name`, the same on each; None leaves them be.

  A sum, since `shard_map` takes the result of an `all_gather` for one that
  differs between devices.
  """
  if axis_name is None:
    return x
  slots = jnp.zeros((axis_size(axis_name), *x.shape), x.dtype)
  slots = slots.at[jax.lax.axis_index(axis_name)].set(x)
  return psum(slots, axis_name).reshape(-1, *x.shape[1:])


def axis_size(axis_name: str | None) -> int:
  """Number of devices of `axis_name`; 1 for None."""
  return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def own_rows(x: jax.Array, axis_name: str | None) -> jax.Array:
  """This device's rows of [devices * rows, ...]; the inverse of `all_rows`."""
  if axis_name is None:
    return x
  rows = len(x) // axis_size(axis_name)
  start = jax.lax.axis_index(axis_name) * rows
  return jax.lax.dynamic_slice_in_dim(x, start, rows)


def device_key(rng: jax.Array, axis_name: str | None) -> jax.Array:
  """A key that differs between the devices of `axis_name`."""
  if axis_name is None:
    return rng
  return jax.random.fold_in(rng, jax.lax.axis_index(axis_name))


def varying_like(tree: PyTree, reference: PyTree) -> PyTree:
  """Lets values differ between devices wherever some leaf of another tree does.

  Inside `jax.shard_map`, the gradient of a device's loss with respect to a
  value that all devices share is summed over the devices. Code that means this
  device's gradient (an inner step of meta-learning), or that writes a gradient
  down itself, calls this first; the sum then takes place where the derivative
  passes this call.

  Args:
    tree: arrays.
    reference: arrays, such as the batch of this device.

  Returns:
    The same values; outside of `shard_map` the same arrays.
  """
  axes = [jax.typeof(x).mat.varying for x in jax.tree.leaves(reference)]
  union = frozenset().union(*axes)

  def cast(x: jax.Array) -> jax.Array:
    missing = tuple(union - jax.typeof(x).mat.varying)
    return jax.lax.pcast(x, missing, to='varying') if missing else x

  return jax.tree.map(cast, tree)


def initialize() -> None:
  """Joins this process with the others of a run; before anything else.

  Who they are is taken from the environment of Slurm, Cloud TPU, GKE or Open
  MPI, or from JAX_COORDINATOR_ADDRESS (host:port of the first process),
  JAX_NUM_PROCESSES and JAX_PROCESS_ID.

  Raises:
    RuntimeError: the environment does not say who they are, or they cannot be
      reached.
  """
  try:
    jax.distributed.initialize(
      num_processes=_number('JAX_NUM_PROCESSES'),
      process_id=_number('JAX_PROCESS_ID'),
    )
  except (TypeError, ValueError) as error:
    raise RuntimeError(
      'the environment does not say which processes make up the run (set '
      'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or start '
      f'it by Slurm, GKE, Cloud TPU or Open MPI): {error}'
    ) from error


def _number(variable: str) -> int | None:
  value = os.environ.get(variable)
  return None if value is None else int(value)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """One axis, `AXIS_NAME`, over `devices` (all of them by default)."""
  chosen = np.asarray(jax.devices() if devices is None else devices)
  return Mesh(chosen, (AXIS_NAME,))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Puts the same value on every device of the mesh."""
  return _put(tree, NamedSharding(mesh, PartitionSpec()), mesh)


def layout(state: Any, mesh: Mesh, *, shard_optimizer: bool = False) -> Any:
  """Where the arrays of a training state lie.

  Args:
    state: a `TrainState`.
    mesh: from `make_mesh`.
    shard_optimizer: split each array of the optimiser's state over the devices,
      along its longest dimension that they divide (ZeRO, stage 1); arrays
      without such a dimension, and all others, are on every device.

  Returns:
    A state of shardings.

  Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training
  Trillion Parameter Models", SC 2020.
  """
  everywhere = NamedSharding(mesh, PartitionSpec())

  def split(x: jax.Array) -> NamedSharding:
    sides = [side if side % mesh.size == 0 else 0 for side in x.shape]
    if not any(sides):
      return everywhere
    axis = sides.index(max(sides))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS_NAME))

  shardings = jax.tree.map(lambda x: everywhere, state)
  if shard_optimizer:
    opt_state = jax.tree.map(split, state.opt_state)
    shardings = shardings.replace(opt_state=opt_state)
  return shardings


def place(state: Any, mesh: Mesh, *, shard_optimizer: bool = False) -> Any:
  """Puts a training state, the same on all processes, where `layout` says."""
  return _put(state, layout(state, mesh, shard_optimizer=shard_optimizer), mesh)


def _put(tree: PyTree, shardings: PyTree, mesh: Mesh) -> PyTree:
  if mesh.is_multi_process:
    # device_put takes no random keys to the devices of other processes.
    return jax.jit(lambda x: x, out_shardings=shardings)(tree)
  return jax.device_put(tree, shardings)


def of_all_processes(tree: PyTree, mesh: Mesh) -> PyTree:
  """What every process has on its own devices, as arrays of the whole mesh.

  pmap gives the former, checkpoints take the latter. Without communication,
  and without copies.

  Args:
    tree: the same values on all devices of all processes.
    mesh: of all devices.
  """
  everywhere = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(
    lambda x: jax.make_array_from_single_device_arrays(
      x.shape, everywhere, [shard.data for shard in x.addressable_shards]
    ),
    tree,
  )


def on_one_device(tree: PyTree) -> PyTree:
  """Arrays that all devices share, as the first device of this process has.

  Without communication, and without copies.
  """
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


def wait_for_all(name: str) -> None:
  """Returns when every process has made this call, of the same name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def require_divisible(batch_size: int, mesh: Mesh) -> None:
  """Raises ValueError unless the global batch splits evenly over devices."""
  if batch_size % mesh.size:
    raise ValueError(
      f'batch_size {batch_size} must be a multiple of the {mesh.size} devices'
    )


def require_statistics(statistics: str) -> None:
  """Raises ValueError unless 'per_device' or 'global'."""
  if statistics not in STATISTICS:
    raise ValueError(
      f'statistics {statistics!r} must be one of {", ".join(STATISTICS)}'
    )


def shard_batch(
  batch: PyTree, mesh: Mesh, parallelism: str = 'shard_map'
) -> PyTree:
  """Lays this process's rows of a batch out for `steps.map_step`.

  Args:
    batch: NumPy arrays [local batch, ...], this process's share of the rows.
    mesh: from `make_mesh`.
    parallelism: 'shard_map' or 'pmap'.

  Returns:
    Global arrays [batch, ...] sharded over the mesh ('shard_map'), or host
    arrays [local devices, rows, ...] ('pmap').
  """
  if parallelism == 'pmap':
    devices = len(mesh.local_devices)
    return jax.tree.map(
      lambda x: np.reshape(x, (devices, len(x) // devices, *x.shape[1:])), batch
    )
  sharding = NamedSharding(mesh, PartitionSpec(AXIS_NAME))
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )


def own_part(batch: PyTree) -> PyTree:
  """This process's rows of what `shard_batch` has laid out, NumPy [rows, ...].

  The inverse of `shard_batch`, whatever the parallelism.
  """

  def rows(x: jax.Array | np.ndarray) -> np.ndarray:
    if isinstance(x, np.ndarray):
      return x.reshape(-1, *x.shape[2:])
    shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])

  return jax.tree.map(rows, batch)
