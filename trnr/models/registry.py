"""The networks by name."""

import difflib
from typing import Any

from trnr.models.adn import ADN
from trnr.models.ddn import DDN
from trnr.models.msresnet import DNNet, MSResNet
from trnr.models.network import RestorationNetwork

_NETWORKS: dict[str, type[RestorationNetwork]] = {
  'msresnet': MSResNet,
  'dnnet': DNNet,
  'ddn': DDN,
  'adn': ADN,
}


def names() -> list[str]:
  """The names that `create` knows."""
  return list(_NETWORKS)


def create(name: str, **options: Any) -> RestorationNetwork:
  """Builds a network.

  Args:
    name: one of `names()`.
    **options: fields of the network that differ from its defaults.

  Returns:
    A Linen module, called as `RestorationNetwork` describes.

  Raises:
    ValueError: unknown name or field; the message lists the valid ones.
  """
  if name not in _NETWORKS:
    close = difflib.get_close_matches(name, _NETWORKS, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    raise ValueError(
      f'unknown network {name!r}{hint}; must be one of {names()}'
    )
  network = _NETWORKS[name]
  fields = network.__dataclass_fields__.keys() - {'parent', 'name'}
  if unknown := sorted(options.keys() - fields):
    raise ValueError(
      f'{name} has no field {unknown[0]!r}; its fields are {sorted(fields)}'
    )
  return network(**options)
