"""Square grids of tokens, stored row by row, and their blocks."""

import math

from common.array_types import Array


def side_of(tokens: Array) -> int:
  """Side of the square grid that [batch, tokens, dim] fills."""
  side = math.isqrt(tokens.shape[1])
  if side * side != tokens.shape[1]:
    raise ValueError(
      f'tokens {list(tokens.shape)} do not form a square grid: are there '
      'prefix tokens?'
    )
  return side


def ratio(large: int, small: int) -> int:
  """How many times `small` goes into `large`; ValueError unless evenly."""
  if large % small:
    raise ValueError(f'{large} is not a multiple of {small}')
  return large // small


def to_blocks(tokens: Array, size: int) -> Array:
  """Splits a grid [b, side^2, d] into squares [b, blocks, size, size, d]."""
  side, dim = side_of(tokens), tokens.shape[-1]
  count = ratio(side, size)
  x = tokens.reshape(-1, count, size, count, size, dim).swapaxes(2, 3)
  return x.reshape(-1, count**2, size, size, dim)


def to_map(blocks: Array) -> Array:
  """Lays squares [b, blocks, size, size, d] out as a map [b, h, w, d]."""
  count = math.isqrt(blocks.shape[1])
  size, dim = blocks.shape[-2:]
  x = blocks.reshape(-1, count, count, size, size, dim).swapaxes(2, 3)
  return x.reshape(-1, count * size, count * size, dim)
