"""Multi-head self-attention."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from common.array_types import Array
from common.layers import initializers
from common.layers.dense import Dense, shape_of


def attend(
  query: Array, key: Array, value: Array, bias: Array | None = None
) -> Array:
  """Scaled dot-product attention; scores and softmax are float32 at least.

  Args:
    query: float [..., queries, heads, features].
    key: float [..., tokens, heads, features].
    value: float [..., tokens, heads, features].
    bias: added to the scores, broadcastable to [..., heads, queries, tokens]
      and of as many axes.

  Returns:
    Float [..., queries, heads, features], in the dtype of `value`.

  Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
  """
  query = query * query.shape[-1] ** -0.5
  # Heads first: plain products of matrices, which CPUs are faster at.
  query, key, value = (jnp.moveaxis(x, -2, -3) for x in (query, key, value))
  scores = jnp.matmul(
    query,
    key.swapaxes(-1, -2),
    preferred_element_type=jnp.promote_types(query.dtype, jnp.float32),
  )
  if bias is not None:
    scores += bias
  # Divided by their sum after the product: of all arrays of that many weights,
  # the gradient needs this one.
  largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores - largest)
  mixed = jnp.matmul(
    weights.astype(value.dtype), value, preferred_element_type=weights.dtype
  )
  mixed /= weights.sum(-1, keepdims=True)
  return jnp.moveaxis(mixed.astype(value.dtype), -3, -2)


class SelfAttention(nn.Module):
  """Scaled dot-product attention among the tokens of each group.

  Query, key and value come from one linear layer. Scores and softmax are
  float32 at least.

  Attributes:
    num_heads: number of heads; must divide the width.
    dtype: of the computation; None keeps that of the input.
    kernel_init: initialiser of both linear layers.

  Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
  """

  num_heads: int
  dtype: jax.typing.DTypeLike | None = None
  kernel_init: nn.initializers.Initializer = initializers.normal(0.02)

  @nn.compact
  def __call__(self, x: Array | Partial, bias: Array | None = None) -> Array:
    """Mixes tokens.

    Args:
      x: tokens, float [..., tokens, features], as `Dense` takes them.
      bias: added to the scores, broadcastable to
        [..., heads, tokens, tokens] and of as many axes.

    Returns:
      Float [..., tokens, features].

    Raises:
      ValueError: the heads do not divide the features.
    """
    *grid, features = shape = shape_of(x)
    if features % self.num_heads:
      raise ValueError(
        f'{self.num_heads} heads do not divide {features} features'
      )

    def mix(together: Array, bias: Array | None) -> Array:
      heads = (*grid, self.num_heads, features // self.num_heads)
      # The gradient of a split is one array, that of three slices a sum of
      # three.
      parts = jnp.split(together, 3, axis=-1)
      query, key, value = (part.reshape(heads) for part in parts)
      return attend(query, key, value, bias).reshape(shape)

    linear = functools.partial(
      Dense, dtype=self.dtype, kernel_init=self.kernel_init
    )
    together = linear(3 * features, name='qkv')(x)
    return linear(features, name='project')(Partial(mix, together, bias))
