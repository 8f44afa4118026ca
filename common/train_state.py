"""All that a training step reads and writes."""

from typing import Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from common import distributed
from common.array_types import Array, PyTree, Variables


class TrainState(struct.PyTreeNode):
  """State of a training run: arrays only, so it maps, donates and saves.

  Attributes:
    step: int32 scalar, updates done so far.
    params: trained variables, one entry per module of the method.
    model_state: the other variable collections (`batch_stats`, memory banks),
      under the same entries as `params`.
    opt_state: of the optimiser.
    rng: key from which each step derives its own by `fold_in(rng, step)`.
    ema: running average of one module's variables, or None.
  """

  step: Array
  params: PyTree
  model_state: PyTree
  opt_state: optax.OptState
  rng: Array
  ema: PyTree | None

  @classmethod
  def create(
    cls,
    *,
    params: PyTree,
    model_state: PyTree,
    tx: optax.GradientTransformation,
    rng: Array,
    ema: PyTree | None = None,
  ) -> Self:
    """A state before its first step."""
    return cls(
      step=jnp.zeros((), jnp.int32),
      params=params,
      model_state=model_state,
      # One program that is dropped again, in place of one for each shape.
      opt_state=jax.jit(tx.init)(params),
      rng=rng,
      ema=ema,
    )

  def apply_gradients(
    self,
    gradients: PyTree,
    model_state: PyTree,
    tx: optax.GradientTransformation,
  ) -> Self:
    """The state after one optimiser update."""
    updates, opt_state = tx.update(gradients, self.opt_state, self.params)
    return self.replace(
      step=self.step + 1,
      params=optax.apply_updates(self.params, updates),
      model_state=model_state,
      opt_state=opt_state,
    )


def collections_of(variables: Variables) -> tuple[PyTree, PyTree]:
  """Splits the result of `Module.init` into params and the rest."""
  rest = {k: v for k, v in variables.items() if k != 'params'}
  return variables.get('params', {}), rest


def moving_average(average: PyTree, new: PyTree, *, decay: float) -> PyTree:
  """`decay * average + (1 - decay) * new`, leaf by leaf."""
  return jax.tree.map(lambda a, n: decay * a + (1 - decay) * n, average, new)


def average_statistics(model_state: PyTree, axis_name: str | None) -> PyTree:
  """Means over devices of BatchNorm's running statistics.

  Other collections (memory banks) are the same on all devices already.

  Args:
    model_state: collections by module.
    axis_name: device axis; None leaves all as it is.

  Returns:
    The same tree.
  """
  return {
    module: {
      name: distributed.pmean(collection, axis_name)
      if name == 'batch_stats'
      else collection
      for name, collection in collections.items()
    }
    for module, collections in model_state.items()
  }
