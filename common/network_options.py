"""Options of networks, as files give them."""

from collections.abc import Mapping
from typing import Any


def with_tuples(options: Mapping[str, Any]) -> dict[str, Any]:
  """Options with tuples for lists, which is what files have.

  JAX looks programs up by the network they run, so it must be hashable.
  """
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in options.items()
  }
