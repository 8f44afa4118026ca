"""The best embedding for given images, by gradient descent.

  python -m coic.fit_embedding --weights published.npz --model brn \
    --input RAINY --target CLEAN

The network stays as it is; only z moves. It sees the clean image, so this is
no way to restore one: it tells how far modulation can help at most, and how
much of that is left on a second image.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from coic import evaluate, losses, models
from coic.modulation import EMBEDDING_FEATURES
from coic.unit_vectors import unit_vectors
from common import compilation_cache, console, image_ops, scores
from common.array_types import (
  Array,
  ArrayLike,
  require_floating,
  require_rank,
  require_same_shape,
  Variables,
)
from common.data import images, pair_transforms

_PROTOCOL = 'coic_y'


def random_embedding(
  rng: Array, *, features: int = EMBEDDING_FEATURES
) -> Array:
  """A unit vector, uniform on the sphere, float32 [features]."""
  return unit_vectors(jax.random.normal(rng, (features,)))


@functools.partial(
  jax.jit, static_argnames=('network', 'loss', 'num_steps'), inline=True
)
def fit_embedding(
  network: models.Backbone,
  variables: Variables,
  image: Array,
  target: Array,
  z: Array,
  *,
  loss: Callable[[Array, Array], Array] = losses.ssim_loss,
  num_steps: int = 30,
  learning_rate: ArrayLike = 0.05,
) -> tuple[Array, Array]:
  """Fits one embedding to one pair or several, by Adam on the unit sphere.

  An extension of ours; the paper has nothing like it.

  Args:
    network: modulated, from `coic.models.create`; with `remat` it takes less
      memory.
    variables: its variables, which stay as they are.
    image: rainy RGB in [0, 1], float [b, h, w, 3].
    target: the clean images, of the same shape.
    z: where to start, float [embedding_features]; scaled to length 1. It must
      not be 0, which has no direction.
    loss: of restored and clean images, one value for each.
    num_steps: number of steps.
    learning_rate: about the angle of a step's part along each axis.

  Returns:
    The unit vector, float32 [embedding_features], and the mean loss before
    each step, [num_steps].

  Raises:
    ValueError: shapes do not fit, or a dtype is not floating.
  """
  require_floating(image=image, target=target, z=z)
  require_rank(4, image=image)
  require_rank(1, z=z)
  require_same_shape(image=image, target=target)
  tx = optax.adam(learning_rate)

  def mean_loss(z: Array) -> Array:
    copies = jnp.broadcast_to(unit_vectors(z), (len(image), len(z)))
    restored: Any = network.apply(variables, image, copies)
    return loss(restored, target).mean()

  def step(
    carry: tuple[Array, optax.OptState], _: None
  ) -> tuple[tuple[Array, optax.OptState], Array]:
    z, opt_state = carry
    value, gradient = jax.value_and_grad(mean_loss)(z)
    updates, opt_state = tx.update(gradient, opt_state)
    return (unit_vectors(z + updates), opt_state), value

  z = unit_vectors(z)
  (z, _), values = jax.lax.scan(step, (z, tx.init(z)), length=num_steps)
  return z, values


def main(arguments: Sequence[str] | None = None) -> None:
  """Fits z to a pair and scores it; see the module, or `--help`."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--weights', required=True, help='run folder, or weights of any kind'
  )
  parser.add_argument(
    '--model', choices=models.names(), help='network, for published weights'
  )
  parser.add_argument('--input', required=True, help='rainy image')
  parser.add_argument('--target', required=True, help='the clean image')
  parser.add_argument('--second_input', help='another, to try the same z on')
  parser.add_argument('--second_target', help='the clean image of that')
  parser.add_argument(
    '--crop', type=int, default=160, help='side of the middle to use, in pixels'
  )
  parser.add_argument('--num_steps', type=int, default=30)
  parser.add_argument('--learning_rate', type=float, default=0.05)
  parser.add_argument('--seed', type=int, default=0, help='of the first z')
  parser.add_argument('--output', help='.npy for z')
  parser.add_argument('--scores', help='.json for PSNR, by image and z')
  options = parser.parse_args(arguments)
  if bool(options.second_input) != bool(options.second_target):
    parser.error('--second_input and --second_target go together')
  compilation_cache.enable()
  try:
    derainer = evaluate.load_derainer(options.weights, name=options.model)
    network = derainer.network
    if not network.modulated:
      raise ValueError(f'the network of {options.weights} has no modulation')
    pairs = {'first': (options.input, options.target)}
    if options.second_input:
      pairs['second'] = (options.second_input, options.second_target)
    read = functools.partial(
      _read, crop=options.crop, multiple=network.side_multiple
    )
    crops = {
      name: [read(path) for path in pair] for name, pair in pairs.items()
    }
    start = random_embedding(
      jax.random.key(options.seed), features=network.embedding_features
    )
    fitted, values = fit_embedding(
      network.clone(remat=True),
      derainer.network_variables,
      *(x[None] for x in crops['first']),
      start,
      num_steps=options.num_steps,
      learning_rate=options.learning_rate,
    )
    print(f'loss {values[0]:.4f} before the first step')
    embeddings: dict[str, Array | None] = {
      'z = 0': jnp.zeros_like(start),
      'random z': start,
    }
    if derainer.encoder is not None:
      embeddings["the encoder's z"] = None
    embeddings['fitted z'] = fitted
    psnr: dict[str, dict[str, float]] = {}
    for name, (image, target) in crops.items():
      for kind, z in embeddings.items():
        restored = evaluate.restore(derainer, image, z=z)
        (score,) = scores.score_image(
          name, restored, image, target, (_PROTOCOL,)
        )
        psnr.setdefault(name, {'input': score.input_psnr})[kind] = score.psnr
        print(
          f'{name} image, {kind}: {_PROTOCOL} {score.psnr:.2f} dB, '
          f'{score.ssim:.4f} (input {score.input_psnr:.2f} dB)'
        )
  except (ImportError, OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  if options.output:
    np.save(options.output, fitted)
  if options.scores:
    pathlib.Path(options.scores).write_text(json.dumps(psnr, indent=1) + '\n')


def _read(path: str, *, crop: int, multiple: int) -> np.ndarray:
  """The middle of an image, RGB in [0, 1], float32 [h, w, 3]."""
  image = images.read_rgb(path)
  middle = pair_transforms.centre_crop(image, crop, multiple=multiple)
  return np.asarray(image_ops.as_float(jnp.asarray(middle)))


if __name__ == '__main__':
  console.run(main)
