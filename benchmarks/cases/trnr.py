"""A step of TRNR with MSResNet, of first and of second order."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.typing import ArrayLike

from benchmarks.peers import msresnet
from benchmarks.peers import trnr as peer
from benchmarks.side_by_side import Case, Prepared
from benchmarks.step_programs import trnr_parts, trnr_program
from common import configuration
from common.array_types import Variables
from common.train_state import TrainState
from trnr import convert, experiment

_PREFIX = 'net.layer_dict.'
# Parameters from the beginning, the middle and the end, by published name.
_COMPARED = (
  'head.weight',
  'body1.msb.layer_dict.conv-s1-d2.weight',
  'body1.rb.layer_dict.cbr2.bn.weight',
  'body1.rb.layer_dict.cbr3.prelu.weight',
  'conv_tail.weight',
  'tail.weight',
)
_STATISTICS = ('body1.msb.layer_dict.bn.r_mean', 'bn_tail.r_var')


def cases() -> Iterator[Case]:
  """Steps of the paper's size, and of a quarter of its pixels."""
  for name, size in (('quarter', 32), ('paper', 64)):
    for order, target in (('first', 1.0), ('second', 0.5)):
      step = TaskStep(size=size, second_order=order == 'second')
      yield Case(
        name=f'trnr_step {name} {order} order',
        ours=step.ours,
        peer=step.peer,
        # Rounding puts some activations on the other side of a rectifier's
        # kink, so the peer's numbers are those of float64: its own in float32
        # are up to 0.011 from them.
        tolerance=1e-2,
        multiply_adds=step.multiply_adds,
        target=target,
      )


def published(variables: Variables) -> dict[str, np.ndarray]:
  """Our variables under the names of the peer."""
  return {
    name.removeprefix(_PREFIX): tensor
    for name, tensor in convert.to_torch(variables).items()
  }


def make_msresnet(state_dict: Mapping[str, ArrayLike]) -> msresnet.MSResNet:
  """The peer with such parameters, which say how large it is."""
  network = msresnet.MSResNet(
    features=state_dict['head.weight'].shape[0],
    stages=sum(name.endswith('msb.layer_dict.bn.bias') for name in state_dict),
  )
  network.load_state_dict(
    {name: torch.tensor(np.asarray(x)) for name, x in state_dict.items()}
  )
  return network


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskStep:
  """A step with the options of `configs/trnr/rain.py`.

  Attributes:
    size: of the patches, in pixels.
    second_order: of the outer gradient.
  """

  size: int
  second_order: bool

  def ours(self) -> Prepared:
    """Our side."""
    program = trnr_program(self._config(), size=self.size)
    state, tasks = self._state(), jax.device_put(self._tasks())
    lowered = program.lower()
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    states = [state]

    def run() -> None:
      states[0], metrics = compiled(states[0], tasks)
      jax.block_until_ready((states[0], metrics))

    def values() -> Mapping[str, Any]:
      new, metrics = compiled(jax.tree.map(jnp.copy, states[0]), tasks)
      (moments,) = (
        part.mu['network'] for part in new.opt_state if hasattr(part, 'mu')
      )
      statistics = new.model_state['network']['batch_stats']
      # The first moments are a tenth of the gradients.
      tensors = published({'params': moments, 'batch_stats': statistics})
      chosen = {name: tensors[name] for name in _COMPARED + _STATISTICS}
      return {'loss': metrics['loss'], **chosen}

    return Prepared(run, values, seconds)

  def peer(self) -> Prepared:
    """The other side."""
    tasks = {
      part: {key: _to_torch(images) for key, images in batch.items()}
      for part, batch in self._tasks().items()
    }

    def make_trainer() -> peer.Trainer:
      state = self._state()
      variables = {
        'params': state.params['network'],
        **state.model_state['network'],
        'inner_learning_rates': state.model_state['inner_learning_rates'],
      }
      tensors = published(variables)
      rates = tensors.pop('update_lr')
      network = make_msresnet(tensors)
      names = (name for name, _ in network.named_parameters())
      return peer.Trainer(
        network,
        dict(zip(names, rates.tolist(), strict=True)),
        inner_steps=self._config().adaptation.inner_steps,
        second_order=self.second_order,
      )

    trainer = make_trainer()

    def values() -> Mapping[str, Any]:
      once = make_trainer()
      once.network.double()
      once.ssim.double()
      loss = once.step(
        {
          part: {key: images.double() for key, images in batch.items()}
          for part, batch in tasks.items()
        }
      )
      parameters = dict(once.network.named_parameters())
      statistics = dict(once.network.named_buffers())
      return {
        'loss': loss,
        **{
          name: once.optimizer.state[parameters[name]]['exp_avg']
          for name in _COMPARED
        },
        **{name: statistics[name] for name in _STATISTICS},
      }

    return Prepared(lambda: trainer.step(tasks), values)

  def multiply_adds(self) -> int:
    """Of one step."""
    return trnr_program(self._config(), size=self.size).multiply_adds()

  def _config(self) -> Any:
    return configuration.load(
      'configs/trnr/rain.py',
      {'adaptation.first_order': not self.second_order},
    )

  def _state(self) -> TrainState:
    config = self._config()
    return experiment.create_train_state(
      jax.random.key(0), *trnr_parts(config), config
    )

  def _tasks(self) -> dict[str, dict[str, np.ndarray]]:
    """Blocks of colour under noise."""
    block = self._config().sampling
    rng = np.random.default_rng(0)
    shape = (block.num_tasks, block.frequencies, self.size, self.size, 3)

    def batch() -> dict[str, np.ndarray]:
      coarse = (*shape[:2], self.size // 8, self.size // 8, 3)
      colours = rng.integers(0, 200, coarse, np.uint8)
      target = colours.repeat(8, 2).repeat(8, 3)
      noise = rng.integers(0, 56, (*shape[:-1], 1), np.uint8)
      return {'input': target + noise, 'target': target}

    return {'support': batch(), 'query': batch()}


def _to_torch(images: np.ndarray) -> torch.Tensor:
  """From uint8 [..., h, w, c] to float32 [..., c, h, w] in [0, 1]."""
  moved = np.moveaxis(images, -1, -3)
  return torch.from_numpy(np.ascontiguousarray(moved)).float() / 255
