"""Blocks of one kind, one after the other."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.array_types import Array, PyTree


def in_sequence(
  blocks: Sequence[nn.Module],
  x: Array,
  *args: Any,
  each: PyTree = None,
  remat: bool = False,
) -> Array:
  """What the last of the blocks makes, each of what the one before made.

  XLA for CPUs keeps memory for every operation of a program, and takes minutes
  to compile a deep one. So there the blocks are turns of a loop over their
  stacked parameters, and the backward pass computes each block again.

  Args:
    blocks: submodules of the calling one that differ in name alone, and have
      no variables but parameters. Without blocks, x is what is returned.
    x: float array that they map to another of the same shape and dtype.
    *args: what each takes after x, the same for all; arrays or None.
    each: what each takes after that, a tree of arrays [blocks, ...]; None for
      nothing.
    remat: compute the blocks again in the backward pass elsewhere too.

  Returns:
    Float array like x.
  """
  if (
    jax.default_backend() == 'cpu'
    and len(blocks) > 1
    and not blocks[0].is_initializing()
    and not blocks[0].is_mutable_collection('intermediates')
  ):
    return _loop(blocks, x, args, each)
  call = nn.remat(_call) if remat else _call
  for i, block in enumerate(blocks):
    x = call(block, x, args, jax.tree.map(lambda array, i=i: array[i], each))
  return x


def _call(block: Any, x: Array, args: Any, own: PyTree) -> Array:
  return block(x, *args) if own is None else block(x, *args, own)


def _loop(
  blocks: Sequence[nn.Module], x: Array, args: Any, each: PyTree
) -> Array:
  block = blocks[0].clone(parent=None, name=None)
  params = jax.tree.map(
    lambda *arrays: jnp.stack(arrays),
    *(block.variables['params'] for block in blocks),
  )

  def body(x: Array, turn: tuple[PyTree, PyTree]) -> tuple[Array, None]:
    params, own = turn
    bound = block.bind({'params': params})
    return _call(bound, x, args, own), None

  # In a loop, nothing is there to be merged with what is computed again.
  body = jax.checkpoint(body, prevent_cse=False)
  return jax.lax.scan(body, x, (params, each))[0]
