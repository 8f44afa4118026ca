"""What every network of this package is: images in, restored images out."""

import abc

import flax.linen as nn
import jax

from common.array_types import Array, PyTree, require_floating, require_rank

# One set of module paths for each level of depth, from the first layer on.
Levels = list[tuple[str, ...]]


class RestorationNetwork(nn.Module):
  """Removes a degradation from images of any size.

  Attributes:
    features: channels inside.
    channels: channels of the images, 3 or 1.
    dtype: of the computation; None means float32. The restored image is
      float32 or better in any case.
    remat: compute the blocks again in the backward pass instead of keeping
      their intermediate results.
    axis_name: device axis to take BatchNorm statistics over; None means this
      device's batch. Inner steps of meta-learning need None.
  """

  features: int = 48
  channels: int = 3
  dtype: jax.typing.DTypeLike | None = None
  remat: bool = False
  axis_name: str | None = None

  @property
  def needs_sigma(self) -> bool:
    """Whether the strength of the noise must be given."""
    return False

  @abc.abstractmethod
  def __call__(
    self, image: Array, *, train: bool = False, sigma: Array | None = None
  ) -> Array:
    """Restores images.

    Args:
      image: degraded, float [b, h, w, channels], clean values in [0, 1].
      train: normalise by batch statistics and update the running ones.
      sigma: standard deviation of the noise in each image, float [b], for
        images in [0, 1]; only for networks with a noise map.

    Returns:
      Float [b, h, w, channels], not clipped.

    Raises:
      ValueError: a shape or dtype is wrong, or `sigma` is missing or unused.
    """

  @abc.abstractmethod
  def levels(self) -> Levels:
    """Module paths by depth; learning rates are graded along it."""

  def depths(self, params: PyTree) -> PyTree:
    """Depth of each parameter: the number of its level, from 1.

    Args:
      params: parameters of this network.

    Returns:
      The same tree of integers.

    Raises:
      ValueError: a parameter belongs to no level.

    Source: Ran et al., the program (inner learning rates by depth).
    """
    depth_of = {
      path: depth
      for depth, paths in enumerate(self.levels(), 1)
      for path in paths
    }

    def depth(keys: tuple[jax.tree_util.DictKey, ...], _: Array) -> int:
      path = '/'.join(str(key.key) for key in keys)
      for module, level in depth_of.items():
        if path.startswith(module + '/'):
          return level
      raise ValueError(f'parameter {path} belongs to no level of the network')

    return jax.tree_util.tree_map_with_path(depth, params)

  def _check_image(self, image: Array) -> None:
    require_rank(4, image=image)
    require_floating(image=image)
    if image.shape[-1] != self.channels:
      raise ValueError(
        f'image {list(image.shape)} must have {self.channels} channels'
      )

  def _rematerialised(self, block: type[nn.Module]) -> type[nn.Module]:
    """The block, called as `block(...)(x, train)`, under `self.remat`."""
    return nn.remat(block, static_argnums=(2,)) if self.remat else block
