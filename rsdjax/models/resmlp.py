"""ResMLP."""

from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax

from common.array_types import Array
from common.layers import DropPath, initializers, materialized, Mlp
from rsdjax.models.mixer import MlpMixer

_XAVIER = initializers.xavier_uniform()


class Affine(nn.Module):
  """Scale and shift of each channel: alpha * x + beta.

  The two are kept as [1, 1, channels], matrices to a rule that decays matrices
  only, as the published program decays them.

  Attributes:
    dtype: of the computation.
  """

  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [b, n, d] to [b, n, d]."""
    shape = (1, 1, x.shape[-1])
    alpha = self.param('alpha', nn.initializers.ones, shape)
    beta = self.param('beta', nn.initializers.zeros, shape)
    x, alpha, beta = nn.dtypes.promote_dtype(x, alpha, beta, dtype=self.dtype)
    return alpha * x + beta


class ResMlpBlock(nn.Module):
  """A linear map along the tokens and an MLP along the channels.

  Both stand behind an `Affine`, under a layer scale and beside a shortcut.

  Attributes:
    drop_path_rate: probability of dropping either branch for an example.
    dtype: of the computation.
  """

  drop_path_rate: float = 0.0
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps tokens [b, n, d] to [b, n, d]."""
    _, num_tokens, width = x.shape
    drop_path = DropPath(self.drop_path_rate)
    branch = Affine(self.dtype, name='affine1')(x).swapaxes(1, 2)
    branch = nn.Dense(
      num_tokens, dtype=self.dtype, kernel_init=_XAVIER, name='linear_tokens'
    )(branch)
    branch = self._scaled(branch.swapaxes(1, 2), 'layer_scale1')
    x = materialized(x + drop_path(branch, train=train))
    branch = Affine(self.dtype, name='affine2')(x)
    branch = Mlp(
      4 * width,
      self.dtype,
      kernel_init=_XAVIER,
      bias_init=initializers.normal(1e-6),
      name='mlp_channels',
    )(branch)
    branch = self._scaled(branch, 'layer_scale2')
    return materialized(x + drop_path(branch, train=train))

  def _scaled(self, x: Array, name: str) -> Array:
    scale = self.param(name, nn.initializers.constant(1e-4), x.shape[-1:])
    return x * scale.astype(x.dtype)[None, None]


class ResMlp(MlpMixer):
  """ResMLP: an `MlpMixer` of other blocks, with no normalisation.

  Attributes: those of `MlpMixer`.

  Source: Touvron et al., "ResMLP: Feedforward networks for image
  classification with data-efficient training", 2021; timm 0.6.5.
  """

  width: int = 384

  block: ClassVar[Callable[..., nn.Module]] = ResMlpBlock

  def _last_norm(self) -> nn.Module:
    return Affine(self.dtype, name='norm')
