"""Restoring pictures with trained networks, warm."""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from PIL import Image

from benchmarks.cases import derainers
from benchmarks.cases.trnr import make_msresnet, published
from benchmarks.peers.restoration import restore_folder
from benchmarks.side_by_side import Case, Prepared
from common import cost, restoration
from common.array_types import Variables
from trnr import evaluate, models
from trnr.restore import make_restore

_SIZES = (
  (150, 150),
  (170, 260),
  (200, 300),
  (256, 256),
  (320, 214),
  (330, 330),
)


def cases() -> Iterator[Case]:
  """One picture by each network, and a folder of them."""
  yield from _msresnet()
  yield from derainers.cases()


def _msresnet() -> Iterator[Case]:
  whole = _Whole()
  yield Case(
    name='inference msresnet 481x321',
    ours=whole.ours,
    peer=whole.peer,
    compiled_peer=whole.compiled_peer,
    multiply_adds=whole.multiply_adds,
  )
  folder = _Folder()
  yield Case(
    name='restore folder msresnet',
    ours=folder.ours,
    peer=folder.peer,
    # Two levels of 8 bits, of pictures whose largest is 230 or more: the gates
    # see the mean of a tile, not of the picture.
    tolerance=2.3 / 255,
  )


def _variables(network: models.RestorationNetwork) -> Variables:
  """First parameters, with the statistics of a batch of noise."""
  image = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
  variables = network.init(jax.random.key(0), image)
  _, new = network.apply(variables, image, train=True, mutable=['batch_stats'])
  # What the running statistics moved a tenth of the way to.
  statistics = jax.tree.map(
    lambda old, new: old + 10 * (new - old),
    variables['batch_stats'],
    new['batch_stats'],
  )
  params = dict(variables['params'])
  # Small corrections, as a trained network makes.
  params['tail'] = jax.tree.map(lambda x: 0.05 * x, params['tail'])
  # Of either side; a program that restores reads its weights.
  jax.clear_caches()
  return {'params': params, 'batch_stats': statistics}


class _Whole:
  """A picture as large as those of BSD, in one piece."""

  def ours(self) -> Prepared:
    """Our side."""
    network, image = models.create('msresnet'), jnp.asarray(self._image())
    variables = _variables(network)
    start = time.perf_counter()
    compiled = evaluate.restore.lower(network, variables, image).compile()
    seconds = time.perf_counter() - start

    def run() -> jax.Array:
      return compiled(variables, image).block_until_ready()

    return Prepared(run, lambda: {'restored': run()}, seconds)

  def peer(self) -> Prepared:
    """The other side."""
    return self._peer(compiled=False)

  def compiled_peer(self) -> Prepared:
    """The other side, compiled."""
    return self._peer(compiled=True)

  def multiply_adds(self) -> int:
    """Of the picture."""
    network = models.create('msresnet')
    variables = jax.eval_shape(lambda: _variables(network))
    return cost.multiply_adds(network.apply, variables, self._image())

  def _peer(self, *, compiled: bool) -> Prepared:
    variables = _variables(models.create('msresnet'))
    network: Any = make_msresnet(published(variables)).eval()
    if compiled:
      network = torch.compile(network)
    image = torch.from_numpy(self._image().transpose(0, 3, 1, 2).copy())

    @torch.no_grad()
    def run() -> torch.Tensor:
      return network(image).clamp(0, 1)

    return Prepared(run, lambda: {'restored': run().permute(0, 2, 3, 1)})

  def _image(self) -> np.ndarray:
    return np.random.default_rng(0).random((1, 321, 481, 3), np.float32)


@dataclasses.dataclass
class _Folder:
  """Twenty files of six sizes, by a narrow network."""

  count: int = 20
  # One for each side, kept as long as the case.
  folders: list[tempfile.TemporaryDirectory] = dataclasses.field(
    default_factory=list
  )

  def ours(self) -> Prepared:
    """Our side, in tiles, as `python -m trnr.restore` does."""
    root, network, variables = self._prepared()
    restore = make_restore(network, variables)
    restore(np.zeros((256, 256, 3), np.float32))  # Compiles for all sizes.

    def run() -> None:
      problems = restoration.restore_files(
        restore, [str(root / 'rainy')], root / 'ours'
      )
      assert not problems, problems

    return Prepared(run, lambda: self._written(run, root / 'ours'))

  def peer(self) -> Prepared:
    """The other side, each picture whole."""
    root, _, variables = self._prepared()
    network = make_msresnet(published(variables)).eval()

    def run() -> None:
      restore_folder(network, root / 'rainy', root / 'peer')

    return Prepared(run, lambda: self._written(run, root / 'peer'))

  def _prepared(
    self,
  ) -> tuple[pathlib.Path, models.RestorationNetwork, Variables]:
    """Writes the files; gives their parent folder, and the network."""
    self.folders.append(tempfile.TemporaryDirectory())
    root = pathlib.Path(self.folders[-1].name)
    (root / 'rainy').mkdir()
    rng = np.random.default_rng(0)
    for number in range(self.count):
      height, width = _SIZES[number % len(_SIZES)]
      colours = rng.integers(0, 200, (height // 8 + 1, width // 8 + 1, 3))
      clean = colours.repeat(8, 0).repeat(8, 1)[:height, :width]
      rain = rng.integers(0, 32, (height, width, 1))
      picture = Image.fromarray((clean + rain).astype(np.uint8))
      picture.save(root / 'rainy' / f'{number:02}.png')
    network = models.create('msresnet', features=16, stages=2)
    return root, network, _variables(network)

  def _written(self, run: Any, folder: pathlib.Path) -> Mapping[str, Any]:
    run()
    # At the borders of pictures smaller than a tile, ours sees a reflection
    # where the other side sees zeros.
    inner = np.s_[32:-32, 32:-32]
    return {
      path.name: (np.asarray(Image.open(path)) / 255)[inner]
      for path in folder.iterdir()
    }
