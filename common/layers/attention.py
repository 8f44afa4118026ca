"""Multi-head self-attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.array_types import Array


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
  weights = nn.softmax(scores).astype(value.dtype)
  return jnp.moveaxis(weights @ value, -3, -2)


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
  kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

  @nn.compact
  def __call__(self, x: Array, bias: Array | None = None) -> Array:
    """Mixes tokens.

    Args:
      x: tokens, float [..., tokens, features].
      bias: added to the scores, broadcastable to
        [..., heads, tokens, tokens] and of as many axes.

    Returns:
      Float [..., tokens, features].

    Raises:
      ValueError: the heads do not divide the features.
    """
    features = x.shape[-1]
    if features % self.num_heads:
      raise ValueError(
        f'{self.num_heads} heads do not divide {features} features'
      )

    def linear(features: int, name: str) -> nn.Dense:
      return nn.Dense(
        features, dtype=self.dtype, kernel_init=self.kernel_init, name=name
      )

    heads = (3, self.num_heads, features // self.num_heads)
    qkv = linear(3 * features, 'qkv')(x).reshape(*x.shape[:-1], *heads)
    query, key, value = (qkv[..., i, :, :] for i in range(3))
    mixed = attend(query, key, value, bias)
    return linear(features, 'project')(mixed.reshape(x.shape))
