"""Restoring one picture with CoIC, embedding and all; see `inference`."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.peers import arrays
from benchmarks.peers import encoder as peer_encoder
from benchmarks.peers.brn import BRN
from benchmarks.peers.drsformer import DRSformer
from benchmarks.side_by_side import Case, Prepared
from coic import convert, evaluate, models
from coic.encoder import embed, Encoder
from common import cost, tiling
from common.initialization import initialize

_PEERS = {'brn': BRN, 'drsformer': DRSformer}


def cases() -> Iterator[Case]:
  """One picture by each network."""
  for name, title in (('brn', 'brn coi-m'), ('drsformer', 'drsformer')):
    picture = _Picture(name)
    yield Case(
      name=f'inference {title} 481x321',
      ours=picture.ours,
      peer=picture.peer,
      multiply_adds=picture.multiply_adds,
    )


@dataclasses.dataclass(frozen=True)
class _Picture:
  """A picture as large as those of BSD, restored in one piece.

  Attributes:
    name: of the network, which is modulated.
    height: of the picture in pixels.
    width: of the picture in pixels.
  """

  name: str
  height: int = 321
  width: int = 481

  def ours(self) -> Prepared:
    """Our side."""
    derainer, image = self._derainer(), self._image()

    def run() -> float:
      start = time.perf_counter()
      evaluate.restore(derainer, image)
      return time.perf_counter() - start

    def values() -> dict[str, Any]:
      return {'removed': image - evaluate.restore(derainer, image)}

    # Its first run compiles two programs.
    return Prepared(run, values, max(run() - run(), 0.0))

  def peer(self) -> Prepared:
    """The other side."""
    network = _PEERS[self.name]().eval()
    encoder = peer_encoder.Encoder().eval()
    image = arrays.channels_first(self._image()[None])
    multiple = models.create(self.name).side_multiple
    beyond = (0, -self.width % multiple, 0, -self.height % multiple)

    @torch.no_grad()
    def run() -> torch.Tensor:
      z = peer_encoder.embed(encoder, image)
      padded = F.pad(image, beyond, mode='reflect') if any(beyond) else image
      restored = network(padded, z)[..., : self.height, : self.width]
      return restored.clamp(0, 1)

    def values() -> dict[str, Any]:
      # Only here are the weights those of ours, lest JAX's memory for them is
      # taken for this side's.
      ours = self._derainer()
      arrays.load(network, convert.to_torch(self.name, ours.network_variables))
      assert ours.encoder_variables is not None
      arrays.load(encoder, convert.to_torch('encoder', ours.encoder_variables))
      return {'removed': arrays.channels_last(image - run())[0]}

    return Prepared(run, values)

  def multiply_adds(self) -> int:
    """Of the encoder and the network."""
    network, encoder = models.create(self.name), Encoder()
    image = tiling.pad_to_multiple(self._image(), network.side_multiple)

    def restore(variables: Any, image: Any) -> Any:
      z = embed(encoder, variables['encoder'], image)
      return network.apply(variables['network'], image, z)

    variables = jax.eval_shape(lambda: self._derainer().variables)
    return cost.multiply_adds(restore, variables, image[None])

  def _derainer(self) -> evaluate.Derainer:
    """Network and encoder at their first weights."""
    network, encoder = models.create(self.name), Encoder()
    rng_network, rng_encoder = jax.random.split(jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = initialize(network, rng_network, image)
    if self.name == 'brn':  # It would restore pictures of less than 0.
      variables['params']['iteration']['background']['output']['bias'] += 0.5
    encoder_variables = initialize(encoder, rng_encoder, image)
    # A program that restores reads its weights; the hundreds of small programs
    # that made these would take more memory than restoring does.
    jax.clear_caches()
    return evaluate.Derainer(network, variables, encoder, encoder_variables)

  def _image(self) -> np.ndarray:
    shape = self.height, self.width, 3
    return np.random.default_rng(0).random(shape, np.float32)
