"""Deraining networks by name."""

import dataclasses
import difflib
from typing import Any

from coic.models.backbone import Backbone
from coic.models.brn import BRN
from coic.models.dgunet import DGUNet
from coic.models.drsformer import DRSformer
from coic.models.idt import IDT
from coic.models.rcdnet import RCDNet
from common import network_options


@dataclasses.dataclass(frozen=True)
class Entry:
  """A network of the registry.

  Attributes:
    network: its class.
    plain_parameters: number of trainable parameters with `modulated=False`.
    modulated_parameters: the same with `modulated=True`, without the encoder
      and without the generators of `unused_generators`.
  """

  network: type[Backbone]
  plain_parameters: int
  modulated_parameters: int


_NETWORKS = {
  'brn': Entry(BRN, 375_526, 580_749),
  'rcdnet': Entry(RCDNet, 2_975_186, 5_080_610),
  'dgunet': Entry(DGUNet, 3_633_117, 4_949_013),
  'idt': Entry(IDT, 16_422_543, 18_953_632),
  'drsformer': Entry(DRSformer, 33_669_632, 47_757_725),
}


def names() -> dict[str, Entry]:
  """The networks that `create` knows, with their sizes."""
  return dict(_NETWORKS)


def create(name: str, *, modulated: bool = True, **options: Any) -> Backbone:
  """Builds a network.

  Args:
    name: one of `names()`.
    modulated: make the generators of CoI-M. Such a network also runs without
      z, as in the first stage of training; one without generators only so.
    **options: other fields of the network's class, such as `dtype`, `remat`,
      `mask_layout`, or `iterations` of BRN.

  Returns:
    A `Backbone`.

  Raises:
    ValueError: the name or an option is unknown.
  """
  if name not in _NETWORKS:
    close = difflib.get_close_matches(name, _NETWORKS, n=1)
    hint = f' Did you mean {close[0]!r}?' if close else ''
    raise ValueError(
      f'unknown network {name!r}.{hint} Valid: {", ".join(_NETWORKS)}'
    )
  network = _NETWORKS[name].network
  fields = {field.name for field in dataclasses.fields(network)}
  valid = sorted(fields - {'modulated', 'parent', 'name'})
  if unknown := sorted(set(options) - set(valid)):
    raise ValueError(
      f'{name} has no option {", ".join(unknown)}. Valid: {", ".join(valid)}'
    )
  return network(modulated=modulated, **network_options.with_tuples(options))
