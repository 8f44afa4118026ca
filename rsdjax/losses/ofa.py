"""OFA-KD: its loss, and the projectors that give every stage logits."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from common import layers
from common.array_types import Array, ArrayLike, require_floating, require_rank
from common.layers import initializers
from rsdjax.losses import _grids
from rsdjax.losses._checks import logit_pair, target_mask

_LINEAR_INIT = initializers.normal(0.02)
_CONV_INIT = initializers.variance_scaling(2.0, 'fan_out', 'normal')


@jax.jit
def ofa_loss(
  branch_logits: Array,
  teacher_logits: Array,
  labels: Array,
  *,
  exponent: ArrayLike = 1.0,
  temperature: ArrayLike = 1.0,
) -> Array:
  """OFA-KD loss of one branch (or of the student's own logits).

  Cross entropy of q = softmax(branch / temperature) against weights that come
  from p = softmax(teacher / temperature): (1 + p)^exponent - 1 for the target
  class, p^exponent for the others. With exponent 1 these are p itself.

  Args:
    branch_logits: float [batch, classes].
    teacher_logits: float [batch, classes]; a constant, no gradient flows into
      it.
    labels: integer [batch] in [0, classes), or float [batch, classes] of class
      probabilities, of which the largest counts as the target class.
    exponent: > 0; above 1 it stresses the target class (epsilon). Published: 1
      on CIFAR-100, 1.5 on ImageNet.
    temperature: divides both logits, > 0. There is no factor temperature^2.

  Returns:
    Float32 [batch], >= 0, in nats.

  Raises:
    ValueError: shapes do not fit, or logits are not floating.

  Source: Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous
  Architectures in Knowledge Distillation", NeurIPS 2023, section 3, with the
  exponent on all classes as in the published program.
  Differs from the reference: the logarithm of the softmax is fused, so it does
  not underflow for very confident students; equal to rounding otherwise.
  """
  branch_logits, teacher_logits = logit_pair(branch_logits, teacher_logits)
  target = target_mask(labels, branch_logits)
  log_p = jax.nn.log_softmax(teacher_logits / temperature)
  log_q = jax.nn.log_softmax(branch_logits / temperature)
  target_weights = jnp.expm1(exponent * jnp.log1p(jnp.exp(log_p)))
  weights = jnp.where(target, target_weights, jnp.exp(exponent * log_p))
  return -(weights * log_q).sum(axis=-1)


class ConvProjector(nn.Module):
  """Logits from a stage of a convolutional student.

  Halves the map at each separable block until it has the size of stage 4, then
  averages it and classifies.

  Attributes:
    stage: 1 to 4, of the feature map.
    features: width before the classifier; published: the larger of the two
      penultimate widths, of student and teacher.
    num_classes: number of classes.
    axis_name: device axis for the BatchNorm statistics; None means this
      device's batch, as in the published program.
    dtype: of the computation; None keeps that of the input.

  Source: Hao et al., NeurIPS 2023, and the published program.
  """

  stage: int
  features: int
  num_classes: int
  axis_name: str | None = None
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, feature_map: Array, *, train: bool) -> Array:
    """Classifies a stage.

    Args:
      feature_map: float [batch, height, width, channels].
      train: normalise by this batch and update the running statistics.

    Returns:
      Logits, float [batch, num_classes].

    Raises:
      ValueError: feature_map is not a floating [batch, height, width,
        channels], or stage is not 1 to 4.
    """
    require_rank(4, feature_map=feature_map)
    require_floating(feature_map=feature_map)
    _require_stage(self.stage)
    x = feature_map
    num_blocks = 4 - self.stage
    for i in range(num_blocks):
      last = i == num_blocks - 1
      x = _SeparableBlock(
        self.features if last else 2 * x.shape[-1],
        axis_name=self.axis_name,
        dtype=self.dtype,
        name=f'block{i}',
      )(x, train=train)
    if num_blocks == 0:
      x = nn.Conv(
        self.features,
        (1, 1),
        dtype=self.dtype,
        kernel_init=_CONV_INIT,
        bias_init=layers.uniform_within(x.shape[-1] ** -0.5),
        name='widen',
      )(x)
    return _classifier(self.num_classes, self.dtype)(x.mean(axis=(1, 2)))


class TokenProjector(nn.Module):
  """Logits from a stage of a student of tokens.

  Merges 2 x 2 patches until a side has fewer than 14, mixes all tokens in
  transformer blocks, and classifies the class token or the mean.

  Attributes:
    stage: 1 to 4, of the tokens.
    features: width of the blocks, a multiple of 4; published: the student's
      penultimate width.
    num_classes: number of classes.
    prefix_tokens: class tokens in front of the patches, which are not merged;
      the first is read out. With 0 the mean is.
    dtype: of the computation; None keeps that of the input.

  Source: Hao et al., NeurIPS 2023, and the published program.
  Differs from the reference, which takes the class token of a ViT for a patch
  and fails.
  """

  stage: int
  features: int
  num_classes: int
  prefix_tokens: int = 0
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, tokens: Array) -> Array:
    """Classifies a stage.

    Args:
      tokens: float [batch, prefix_tokens + side^2, dim], row by row.

    Returns:
      Logits, float [batch, num_classes].

    Raises:
      ValueError: tokens are not floating [batch, tokens, dim] of a square that
        can be halved as often as needed; tokens that are not merged are not
        `features` wide; or stage is not 1 to 4.
    """
    require_rank(3, tokens=tokens)
    require_floating(tokens=tokens)
    _require_stage(self.stage)
    prefix = tokens[:, : self.prefix_tokens]
    patches = tokens[:, self.prefix_tokens :]
    # floor(log2(side / 7)), and none on smaller grids.
    num_merges = max((_grids.side_of(patches) // 7).bit_length() - 1, 0)
    for i in range(num_merges):
      patches = _PatchMerging(
        self.features,
        activate=i == 0 or i < num_merges - 1,
        dtype=self.dtype,
        name=f'merge{i}',
      )(patches)
    parts = [prefix, patches] if self.prefix_tokens else [patches]
    for part in parts:
      if part.shape[-1] != self.features:
        raise ValueError(
          f'unmerged tokens {list(part.shape)} must be {self.features} wide'
        )
    x = jnp.concatenate(parts, axis=1)
    for i in range(max(4 - self.stage, 1)):
      x = _TransformerBlock(dtype=self.dtype, name=f'block{i}')(x)
    pooled = x[:, 0] if self.prefix_tokens else x.mean(axis=1)
    return _classifier(self.num_classes, self.dtype)(pooled)


class _SeparableBlock(nn.Module):
  """Two depthwise-separable convolutions, the first of stride 2."""

  features: int
  axis_name: str | None
  dtype: jax.typing.DTypeLike | None

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    width = x.shape[-1]
    conv = functools.partial(
      layers.Conv, use_bias=False, dtype=self.dtype, kernel_init=_CONV_INIT
    )
    for i, (stride, features) in enumerate([(2, width), (1, self.features)]):
      x = conv(
        width,
        (3, 3),
        strides=stride,
        padding=1,
        groups=width,
        name=f'depthwise{i}',
      )(x)
      x = conv(features, (1, 1), padding=0, name=f'pointwise{i}')(x)
      x = layers.BatchNorm(
        axis_name=self.axis_name, dtype=self.dtype, name=f'norm{i}'
      )(x, train=train)
      x = nn.relu(x)
    return x


class _PatchMerging(nn.Module):
  """Concatenates 2 x 2 patches, normalises and maps them to a width."""

  features: int
  activate: bool
  dtype: jax.typing.DTypeLike | None

  @nn.compact
  def __call__(self, patches: Array) -> Array:
    # Within a square the rows change fastest, as in Swin.
    squares = _grids.to_blocks(patches, 2).swapaxes(2, 3)
    x = layers.LayerNorm(1e-5, self.dtype, name='norm')(
      squares.reshape(*squares.shape[:2], -1)
    )
    x = nn.Dense(
      self.features,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=_LINEAR_INIT,
      name='reduce',
    )(x)
    return layers.gelu(x) if self.activate else x


class _TransformerBlock(nn.Module):
  """Pre-norm attention of 4 heads, then an MLP, both residual."""

  dtype: jax.typing.DTypeLike | None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x += self._attention(layers.LayerNorm(1e-5, self.dtype, name='norm0')(x))
    mlp = layers.Mlp(4 * x.shape[-1], dtype=self.dtype, name='mlp')
    return x + mlp(layers.LayerNorm(1e-5, self.dtype, name='norm1')(x))

  def _attention(self, x: Array) -> Array:
    linear = functools.partial(
      nn.Dense, dtype=self.dtype, kernel_init=_LINEAR_INIT
    )
    width, heads = x.shape[-1], 4
    if width % heads:
      raise ValueError(f'features {width} must be a multiple of {heads}')
    qkv = linear(3 * width, use_bias=False, name='qkv')(x)
    qkv = qkv.reshape(*x.shape[:2], 3, heads, width // heads)
    mixed = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0))
    return linear(width, name='project')(mixed.reshape(x.shape))


def _classifier(
  num_classes: int, dtype: jax.typing.DTypeLike | None
) -> nn.Dense:
  return nn.Dense(
    num_classes, dtype=dtype, kernel_init=_LINEAR_INIT, name='classifier'
  )


def _require_stage(stage: int) -> None:
  if stage not in (1, 2, 3, 4):
    raise ValueError(f'stage {stage} must be 1, 2, 3 or 4')
