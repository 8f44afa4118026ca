"""What the tests of losses share: precisions, ways to run, stored numbers."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from common.distributed import pmean


@dataclasses.dataclass(frozen=True)
class Precision:
  """A dtype to compute in, and how far it may stray from the reference."""

  dtype: type
  loss_rtol: float
  gradient_rtol: float  # Of the largest entry of the gradient.

  def cast(self, *arrays: np.ndarray) -> list[np.ndarray]:
    return [x.astype(self.dtype) for x in arrays]

  def check_loss(self, actual, expected) -> None:
    assert actual.dtype == self.dtype
    np.testing.assert_allclose(actual, expected, rtol=self.loss_rtol)

  def check_gradient(self, actual, expected) -> None:
    """Compares relative to the largest entry of each column."""
    scale = np.abs(expected).max(axis=0, keepdims=True)
    np.testing.assert_allclose(
      np.asarray(actual) / scale,
      expected / scale,
      rtol=0,
      atol=self.gradient_rtol,
    )


# Float32 carries 1.2e-7 a step; the reference is float64, of which some
# gradients are stored as float32.
PRECISIONS = {
  'float32': Precision(np.float32, loss_rtol=1e-6, gradient_rtol=5e-6),
  'float64': Precision(np.float64, loss_rtol=1e-12, gradient_rtol=1e-7),
}


@pytest.fixture(params=PRECISIONS)
def precision(request) -> Iterator[Precision]:
  """Runs a test in float32 and, with 64-bit types enabled, in float64."""
  with jax.enable_x64(request.param == 'float64'):
    yield PRECISIONS[request.param]


@pytest.fixture
def reference(golden, stored_golden) -> Callable[[str, str], dict]:
  """Reads `reference('shared' or 'stored', 'rsd_loss')`."""

  def read(source: str, name: str) -> dict[str, np.ndarray]:
    if source == 'shared':
      return golden(f'rsd/{name}.npz')
    prefix = f'{name}/'
    return {
      key.removeprefix(prefix): value
      for key, value in stored_golden('rsd_losses.npz').items()
      if key.startswith(prefix)
    }

  return read


@pytest.fixture
def loss_and_gradient() -> Callable:
  """Gives the mean of `loss(student, *others, **options)` and its gradient.

  One compiled program for all calls of one loss with the same shapes.
  """
  return _loss_and_gradient


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_gradient(loss, student, *others, **options):
  def mean_loss(student):
    return loss(student, *others, **options).mean()

  return jax.value_and_grad(mean_loss)(student)


def train_step(loss, weights, student, *others, axis_name=None):
  """Loss of a linear student and its gradient, the same on every device."""

  def loss_fn(weights):
    values = loss(student @ weights, *others, axis_name=axis_name)
    return pmean(values.mean(), axis_name)

  value, gradient = jax.value_and_grad(loss_fn)(weights)
  return value, pmean(gradient, axis_name)


def _vmap(step, weights, arrays):
  """As one of two batches that are computed together."""
  pairs = [jnp.stack([x, x[::-1]]) for x in arrays]
  in_axes = (None,) + (0,) * len(arrays)
  results = jax.jit(jax.vmap(step, in_axes=in_axes))(weights, *pairs)
  return jax.tree.map(lambda x: x[0], results)


def _shard_map(step, weights, arrays):
  batched = PartitionSpec('batch')
  sharded = jax.shard_map(
    functools.partial(step, axis_name='batch'),
    mesh=Mesh(np.asarray(jax.devices()), 'batch'),
    in_specs=(PartitionSpec(),) + (batched,) * len(arrays),
    out_specs=PartitionSpec(),
  )
  return jax.jit(sharded)(weights, *arrays)


def _pmap(step, weights, arrays):
  mapped = jax.pmap(
    functools.partial(step, axis_name='batch'),
    axis_name='batch',
    in_axes=(None,) + (0,) * len(arrays),
    out_axes=None,
  )
  devices = jax.device_count()
  shares = [x.reshape(devices, -1, *x.shape[1:]) for x in arrays]
  return mapped(weights, *shares)


@pytest.fixture(params=[_vmap, _shard_map, _pmap])
def run(request) -> Callable:
  """Runs a training step in one of three ways, two of them on 8 devices.

  `run(loss, weights, student, *others)` gives the mean of
  `loss(student @ weights, *others, axis_name=...)` over the whole batch, and
  its gradient with respect to the weights. `run.num_devices` share the batch.
  """

  def run_step(loss, weights, *arrays):
    step = functools.partial(train_step, loss)
    return request.param(step, weights, arrays)

  on_devices = request.param in (_shard_map, _pmap)
  run_step.num_devices = jax.device_count() if on_devices else 1
  return run_step
