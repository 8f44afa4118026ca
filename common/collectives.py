"""What devices exchange in a compiled program, read from its text."""

import collections
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)

# name = type kind(operands); a type has neither operands nor attributes in it.
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%?[\w.-]+ = '
  r'(?P<type>[\w\[\](){}<=,:*/\s]+?) '
  rf'(?P<kind>{"|".join(KINDS)})(?P<start>-start)?\(',
  re.MULTILINE,
)
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')


class Collective(NamedTuple):
  """Arrays of one shape that devices exchange in one way.

  Attributes:
    kind: one of `KINDS`.
    element_type: as XLA writes it, such as 'f32'.
    shape: of the result on one device.
    number: how many arrays.
    bytes: of all of them on one device.
  """

  kind: str
  element_type: str
  shape: tuple[int, ...]
  number: int
  bytes: int


def collectives(text: str) -> list[Collective]:
  """Lists the collectives of a compiled program.

  What XLA has combined into one instruction counts as the arrays that it is
  made of, and a pair of an asynchronous start and its end as one. The body of
  a loop counts once, however often it runs.

  Args:
    text: `compiled.as_text()` of the program of a device.

  Returns:
    Those of a kind after one another, the largest first.
  """
  numbers: collections.Counter[tuple[str, str, tuple[int, ...]]]
  numbers = collections.Counter()
  for found in _INSTRUCTION.finditer(text):
    kind = found['kind']
    arrays = [
      (element_type, tuple(int(side) for side in sides.split(',') if side))
      for element_type, sides in _ARRAY.findall(found['type'])
    ]
    if found['start'] and kind != 'all-reduce':
      arrays = _results(arrays)
    numbers.update((kind, *array) for array in arrays)
  listed = [
    Collective(kind, element_type, shape, n, n * _bytes(element_type, shape))
    for (kind, element_type, shape), n in numbers.items()
  ]
  return sorted(listed, key=lambda x: (KINDS.index(x.kind), -x.bytes))


def total_bytes(found: Sequence[Collective], kind: str) -> int:
  """Bytes on one device of all collectives of a kind."""
  return sum(x.bytes for x in found if x.kind == kind)


def table(found: Sequence[Collective]) -> str:
  """Sums collectives by kind, as a Markdown table.

  Args:
    found: from `collectives`.

  Returns:
    Lines of the kinds that occur: the number of arrays, and bytes on a device.
  """
  lines = ['| collective | arrays | bytes per device |', '|---|---|---|']
  for kind in KINDS:
    if number := sum(x.number for x in found if x.kind == kind):
      lines.append(f'| {kind} | {number:,} | {total_bytes(found, kind):,} |')
  return '\n'.join(lines)


def _results(
  arrays: list[tuple[str, tuple[int, ...]]],
) -> list[tuple[str, tuple[int, ...]]]:
  """Of what an asynchronous start holds: operands, as many results, flags."""
  while len(arrays) > 2 and arrays[-1] in (('u32', ()), ('s32', ())):
    arrays = arrays[:-1]
  return arrays[len(arrays) // 2 :]


def _bytes(element_type: str, shape: tuple[int, ...]) -> int:
  bits = re.search(r'\d+', element_type)  # None for pred, which has a byte.
  return math.ceil(math.prod(shape) * (int(bits[0]) if bits else 8) / 8)
