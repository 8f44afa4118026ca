"""FitNet: regression of the teacher's stage features, and their aligners."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from common import layers
from common.array_types import (
  Array,
  ArrayLike,
  at_least_float32,
  require_floating,
  require_same_batch,
  require_same_shape,
)
from rsdjax.losses import _grids

_MAP, _TOKENS = 4, 3  # Number of axes.


@jax.jit
def fitnet_loss(
  student_features: Sequence[Array],
  teacher_features: Sequence[Array],
  *,
  scale: ArrayLike = 0.1,
) -> Array:
  """Squared error between aligned stage features, summed over the stages.

  scale * sum over stages of the mean squared difference.

  Args:
    student_features: aligned, one float [batch, ...] per stage, from
      `FeatureAligner`.
    teacher_features: of the same shapes; constants, no gradient flows into
      them.
    scale: factor of the sum, 0.1 in the published program.

  Returns:
    Float32 [batch], >= 0.

  Raises:
    ValueError: there is not one teacher feature per student feature, shapes of
      a stage differ, or features are not floating.

  Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section
  2.2, over several stages as in the published RSD program.
  """
  if len(student_features) != len(teacher_features) or not student_features:
    raise ValueError(
      f'{len(student_features)} student_features do not match '
      f'{len(teacher_features)} teacher_features'
    )
  errors = []
  for student, teacher in zip(student_features, teacher_features, strict=True):
    require_same_shape(student_feature=student, teacher_feature=teacher)
    require_floating(student_feature=student, teacher_feature=teacher)
    teacher = jax.lax.stop_gradient(at_least_float32(teacher))
    squares = jnp.square(at_least_float32(student) - teacher)
    errors.append(squares.mean(axis=tuple(range(1, squares.ndim))))
  return jnp.stack(errors).sum(axis=0) * scale


class FeatureAligner(nn.Module):
  """Brings a stage of the student and one of the teacher to one shape.

  Maps are [batch, height, width, channels], tokens [batch, tokens, dim], row by
  row. What has the finer grid is regrouped, so that nothing is interpolated:

  | student | teacher | finer | student's path | teacher's path |
  |---|---|---|---|---|
  | map | map | | 1 x 1 convolution | |
  | map | tokens | student | convolution with kernel = stride | |
  | map | tokens | teacher | 1 x 1 convolution | tokens of a block joined |
  | tokens | map | teacher | linear, each token becomes a block | |
  | tokens | map | student | tokens of a block joined, 1 x 1 convolution | |
  | tokens | tokens | teacher | linear, cut into more tokens | |
  | tokens | tokens | student | tokens of a block joined, linear | |

  Attributes:
    student_prefix_tokens: class tokens of the student, which are left out.
    teacher_prefix_tokens: class tokens of the teacher, which are left out.
    dtype: of the computation; None keeps that of the input.

  Source: the published RSD program.
  Differs from the reference, which keeps the class token of a ViT and fails.
  """

  student_prefix_tokens: int = 0
  teacher_prefix_tokens: int = 0
  dtype: jax.typing.DTypeLike | None = None

  @nn.compact
  def __call__(self, student: Array, teacher: Array) -> tuple[Array, Array]:
    """Aligns a stage.

    Args:
      student: float [batch, height, width, channels] or [batch, tokens, dim].
      teacher: likewise.

    Returns:
      Both, in one shape [batch, ...], for `fitnet_loss`.

    Raises:
      ValueError: a feature is neither a map nor tokens, or the sizes do not go
        into each other.
    """
    require_same_batch(student=student, teacher=teacher)
    require_floating(student=student, teacher=teacher)
    if student.ndim == _TOKENS:
      student = student[:, self.student_prefix_tokens :]
    if teacher.ndim == _TOKENS:
      teacher = teacher[:, self.teacher_prefix_tokens :]
    align = {
      (_MAP, _MAP): self._map_to_map,
      (_MAP, _TOKENS): self._map_to_tokens,
      (_TOKENS, _MAP): self._tokens_to_map,
      (_TOKENS, _TOKENS): self._tokens_to_tokens,
    }.get((student.ndim, teacher.ndim))
    if align is None:
      raise ValueError(
        f'student {list(student.shape)} and teacher {list(teacher.shape)} '
        'must be maps of 4 axes or tokens of 3'
      )
    return align(student, teacher)

  def _map_to_map(self, student: Array, teacher: Array) -> tuple[Array, Array]:
    if student.shape[1:3] != teacher.shape[1:3]:
      raise ValueError(
        f'maps of student {list(student.shape)} and teacher '
        f'{list(teacher.shape)} must have the same height and width'
      )
    return self._conv(student, teacher.shape[-1]), teacher

  def _map_to_tokens(
    self, student: Array, teacher: Array
  ) -> tuple[Array, Array]:
    height, side = _side_of_map(student), _grids.side_of(teacher)
    if height < side:
      teacher = _join(teacher, _grids.ratio(side, height))
    kernel = _grids.ratio(height, min(height, side))
    student = self._conv(student, teacher.shape[-1], kernel)
    return student.reshape(teacher.shape), teacher

  def _tokens_to_map(
    self, student: Array, teacher: Array
  ) -> tuple[Array, Array]:
    height, side = _side_of_map(teacher), _grids.side_of(student)
    channels = teacher.shape[-1]
    if height < side:
      joined = _join(student, _grids.ratio(side, height))
      grid = joined.reshape(-1, height, height, joined.shape[-1])
      return self._conv(grid, channels), teacher
    size = _grids.ratio(height, side)
    student = self._linear(student, channels * size**2)
    blocks = student.reshape(*student.shape[:2], size, size, channels)
    return _grids.to_map(blocks), teacher

  def _tokens_to_tokens(
    self, student: Array, teacher: Array
  ) -> tuple[Array, Array]:
    count, dim = teacher.shape[1:]
    if count > student.shape[1]:
      cut = _grids.ratio(count * dim, student.shape[1])
      _grids.ratio(cut, student.shape[-1])
      student = self._linear(student, cut)
      return student.reshape(teacher.shape), teacher
    size = _grids.ratio(_grids.side_of(student), _grids.side_of(teacher))
    return self._linear(_join(student, size), dim), teacher

  def _conv(self, x: Array, features: int, kernel: int = 1) -> Array:
    """Convolution with kernel = stride; PyTorch's default initialisation."""
    return nn.Conv(
      features,
      (kernel, kernel),
      strides=kernel,
      padding='VALID',
      dtype=self.dtype,
      kernel_init=layers.fan_in_uniform(),
      bias_init=layers.uniform_within((kernel**2 * x.shape[-1]) ** -0.5),
      name='align',
    )(x)

  def _linear(self, x: Array, features: int) -> Array:
    """Linear map; PyTorch's default initialisation."""
    return nn.Dense(
      features,
      dtype=self.dtype,
      kernel_init=layers.fan_in_uniform(),
      bias_init=layers.uniform_within(x.shape[-1] ** -0.5),
      name='align',
    )(x)


def _join(tokens: Array, size: int) -> Array:
  """Joins each block of size x size tokens into one, row by row."""
  blocks = _grids.to_blocks(tokens, size)
  return blocks.reshape(*blocks.shape[:2], -1)


def _side_of_map(feature_map: Array) -> int:
  if feature_map.shape[1] != feature_map.shape[2]:
    raise ValueError(f'map {list(feature_map.shape)} must be square')
  return feature_map.shape[1]
