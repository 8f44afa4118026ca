"""Memory that restoring takes: by the side of a tile, and of a large photo.

  python -m benchmarks.restoring
  python -m benchmarks.restoring --photo msresnet

prints the rows of docs/memory.md: what the compiler counts for a tile, weights
included, and then, which takes far longer, what a process holds at most that
restores a photo of 4000 x 3000. With `--photo`, this process is that one.
Networks are of their published size, with first weights.
"""

import argparse
import functools
import pathlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import coic.evaluate
import coic.models
import coic.restore
import trnr.evaluate
import trnr.models
import trnr.restore
from benchmarks.step_programs import needed
from coic.encoder import Encoder
from common import restoration
from common.initialization import initialize

NETWORKS = ('msresnet', 'brn')
_TILES = (128, 256, 512)
_WIDTH, _HEIGHT = 4000, 3000


def tile_mib(name: str, tile: int) -> float:
  """MiB of weights and intermediate results of one tile.

  Args:
    name: of `NETWORKS`.
    tile: its side, in pixels.
  """
  image = jax.ShapeDtypeStruct((1, tile, tile, 3), jnp.float32)
  key = jax.random.key(0)
  if name == 'msresnet':
    network = trnr.models.create(name)
    variables = jax.eval_shape(network.init, key, image)
    lowered = trnr.evaluate.restore.lower(network, variables, image)
  else:
    backbone = coic.models.create(name)
    z = jax.ShapeDtypeStruct((1, backbone.embedding_features), jnp.float32)
    variables = jax.eval_shape(backbone.init, key, image, z)
    lowered = jax.jit(backbone.apply).lower(variables, image, z)
  return sum(needed(lowered.compile())) * 1024


def make_restore(name: str) -> restoration.Restore:
  """What the command of a network restores with.

  Args:
    name: of `NETWORKS`.
  """
  key, image = jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  if name == 'msresnet':
    network = trnr.models.create(name)
    return trnr.restore.make_restore(network, initialize(network, key, image))
  backbone, encoder = coic.models.create(name), Encoder()
  z = jnp.zeros((1, backbone.embedding_features))
  variables = initialize(backbone, key, image, z)
  encoder_variables = initialize(encoder, key, image)
  return coic.restore.make_restore(
    coic.evaluate.Derainer(backbone, variables, encoder, encoder_variables)
  )


def photo_mib(name: str) -> float:
  """MiB that this process holds at most, once it has restored a photo.

  Args:
    name: of `NETWORKS`.
  """
  colours = np.random.default_rng(0).integers(
    0, 256, (_HEIGHT // 8, _WIDTH // 8, 3), np.uint8
  )
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'photo.png')
    Image.fromarray(colours.repeat(8, 0).repeat(8, 1)).save(path)
    problems = restoration.restore_files(
      make_restore(name), [str(path)], pathlib.Path(folder, 'restored')
    )
    assert not problems, problems
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the rows."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--photo', choices=NETWORKS)
  options = parser.parse_args(arguments)
  if options.photo:
    print(f'{photo_mib(options.photo):.0f}')
    return
  say = functools.partial(print, flush=True)
  say(f'| tile | {" | ".join(f"{name}, MiB" for name in NETWORKS)} |')
  say('|---|---|---|')
  for tile in _TILES:
    mib = (f'{tile_mib(name, tile):.0f}' for name in NETWORKS)
    say(f'| {tile} | {" | ".join(mib)} |')
  for name in NETWORKS:
    command = [sys.executable, '-m', 'benchmarks.restoring', '--photo', name]
    mib = subprocess.run(
      command, check=True, capture_output=True, text=True
    ).stdout.strip()
    say(f'\n{_WIDTH} x {_HEIGHT}, {name}: {mib} MiB in all')


if __name__ == '__main__':
  main()
