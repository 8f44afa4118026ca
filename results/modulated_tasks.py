"""TRNR's tasks for a BRN whose kernels follow the picture (CoI-M).

`python -m results.modulated_tasks --config configs/trnr/rain_small.py --workdir
FOLDER --methods rps_plain,rcs_modulated --seeds 0,1` trains the narrow BRN of
`configs/coic/mixed_small.py`, plain or modulated, on random patches (rps) or on
tasks (rcs). All else is as the config says. A stopped comparison goes on where
it was.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import ml_collections
from absl import flags

from coic.encoder import Encoder
from coic.models.brn import BRN
from common import commands, scores
from common.array_types import Array
from trnr import train
from trnr.models.network import Levels, RestorationNetwork

# Sampling, and whether the network is modulated.
METHODS: Mapping[str, tuple[str, bool]] = {
  f'{sampling}_{name}': (sampling, modulated)
  for sampling in ('rps', 'rcs')
  for name, modulated in (('plain', False), ('modulated', True))
}


class ModulatedBRN(RestorationNetwork):
  """A narrow BRN and the encoder that modulates it, as one network for TRNR.

  The encoder sees what the network sees, a patch in training and all of a
  picture after it, and learns from the restoration alone; an inner step moves
  both.

  Attributes:
    features: channels of both.
    modulated: False leaves out encoder and generators.
  """

  features: int = 12
  modulated: bool = True

  @nn.compact
  def __call__(
    self, image: Array, *, train: bool = False, sigma: Array | None = None
  ) -> Array:
    """Restores images; see `RestorationNetwork`."""
    del sigma
    self._check_image(image)
    z = None
    if self.modulated:
      encoder = Encoder(self.features, name='encoder')
      z = encoder(image, train=train).embedding
    network = BRN(
      modulated=self.modulated,
      mask_layout='paired',
      iterations=3,
      features=self.features,
      rain_blocks=1,
      background_blocks=2,
      name='brn',
    )
    restored: Any = network(image, z)
    return restored

  def levels(self) -> Levels:
    """The encoder, then the two branches of every iteration."""
    branches = [(f'brn/iteration/{x}',) for x in ('rain', 'background')]
    return [('encoder',), *branches]


def compare(
  config: ml_collections.ConfigDict,
  workdir: str | pathlib.Path,
  *,
  methods: Sequence[str],
  seeds: Sequence[int],
) -> dict[str, dict[str, float]]:
  """Trains a network for each method and seed.

  Args:
    config: of one run of TRNR; network, sampling and seed are replaced, but for
      `config.model.features`.
    workdir: gets `METHOD_seedN/`, and the patches of all.
    methods: of `METHODS`.
    seeds: one run each.

  Returns:
    Scores at the last step by run, see `trnr.train.train_and_evaluate`.

  Raises:
    ValueError: unknown method, or as `trnr.train.train_and_evaluate`.
  """
  if unknown := sorted({*methods} - {*METHODS}):
    raise ValueError(f'method {unknown[0]!r} must be one of {[*METHODS]}')
  workdir = pathlib.Path(workdir)
  found = {}
  for method in methods:
    for seed in seeds:
      sampling, modulated = METHODS[method]
      options = {'features': config.model.features, 'modulated': modulated}
      run = config.copy_and_resolve_references()
      with run.unlocked():
        run.seed, run.sampling.name = seed, sampling
        run.patches.path = str(workdir / 'patches.npz')
        run.model = {'name': 'modulated_brn', **options}
      folder = workdir / f'{method}_seed{seed}'
      found[folder.name] = train.train_and_evaluate(
        run, folder, network=ModulatedBRN(**options)
      )
  return found


def main() -> None:
  """Runs `compare` on the flags and prints the scores."""
  rows = compare(
    flags.FLAGS.config,
    flags.FLAGS.workdir,
    methods=flags.FLAGS.methods,
    seeds=[int(seed) for seed in flags.FLAGS.seeds],
  )
  print(scores.table(rows))


if __name__ == '__main__':
  commands.define_config_flags('comparison')
  flags.DEFINE_list('methods', [*METHODS], 'Some of the methods above.')
  flags.DEFINE_list('seeds', '0', 'Seeds, one run each.')
  commands.run(main)
