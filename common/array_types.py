"""Types of arrays, and the checks that public functions make of them.

The checks look at shapes and dtypes only, so they run while tracing and cost
nothing in a compiled program.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
Batch = Mapping[str, Array]
PyTree = Any
Variables = Mapping[str, Any]


def _shapes(arrays: Mapping[str, Array]) -> str:
  return ' and '.join(
    f'{name} {x.dtype}{list(x.shape)}' for name, x in arrays.items()
  )


def require_floating(**arrays: Array) -> None:
  """Raises ValueError unless every array has a floating dtype."""
  for x in arrays.values():
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(f'{_shapes(arrays)} must be of a floating dtype')


def require_rank(rank: int, **arrays: Array) -> None:
  """Raises ValueError unless every array has `rank` axes."""
  for x in arrays.values():
    if x.ndim != rank:
      raise ValueError(f'{_shapes(arrays)} must have {rank} axes')


def require_same_shape(**arrays: Array) -> None:
  """Raises ValueError unless all arrays have one shape."""
  if len({x.shape for x in arrays.values()}) > 1:
    raise ValueError(f'{_shapes(arrays)} must have the same shape')


def require_same_batch(**arrays: Array) -> None:
  """Raises ValueError unless all arrays have the same first dimension."""
  if len({x.shape[:1] for x in arrays.values()}) > 1:
    raise ValueError(f'{_shapes(arrays)} must have the same batch size')


def at_least_float32(x: Array) -> Array:
  """Casts low-precision floats up; leaves float32 and float64 as they are."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def compute_dtype(name: str) -> Any:
  """The `dtype` of modules for a name, as configs have it.

  Args:
    name: 'float32' or 'bfloat16'.

  Returns:
    None, which leaves modules at the precision of their parameters, or
    bfloat16.

  Raises:
    ValueError: another name.
  """
  dtypes = {'float32': None, 'bfloat16': jnp.bfloat16}
  if name not in dtypes:
    raise ValueError(f'dtype {name!r} must be one of {", ".join(dtypes)}')
  return dtypes[name]
