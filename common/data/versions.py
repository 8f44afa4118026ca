"""How many pairs the published versions of deraining sets have."""

from collections.abc import Collection, Mapping

# Pairs of each split, by layout and version; of a set without pairs, pictures.
VERSIONS: dict[str, dict[str, dict[str, Collection[int]]]] = {
  'rain200l': {'Rain200L (RainLight)': {'train': [1800], 'test': [200]}},
  'rain200h': {'Rain200H (RainHeavy)': {'train': [1800], 'test': [200]}},
  'rain100l': {'Rain100L': {'train': [200], 'test': [100]}},
  'rain100h': {
    'Rain100H': {'train': [1800], 'test': [100]},
    'Rain100H without the backgrounds of its test pairs': {
      'train': [1254],
      'test': [100],
    },
  },
  'rain800': {'Rain800': {'train': [700], 'test': [100]}},
  'rain1400': {'Rain1400 (DDN-Data)': {'train': [12600], 'test': [1400]}},
  'ddn': {'DDN-Data (Rain1400)': {'train': [12600], 'test': [1400]}},
  'did': {'DID-Data (Rain1200)': {'train': [12000], 'test': [1200]}},
  # Known to the thousand.
  'spa': {'SPA-Data': {'train': range(637500, 638500), 'test': [1000]}},
  'realint': {'RealInt': {'all': [146, 147]}},
}


def identify(layout: str, counts: Mapping[str, int]) -> str | None:
  """Names the published version of a set.

  Args:
    layout: key of `VERSIONS`, or any other.
    counts: pairs by split, 'all' for one that is not named.

  Returns:
    The version, or several of one size, or None.

  Source: specifications of the data of CoIC and TRNR.
  """
  found = []
  for name, splits in VERSIONS.get(layout, {}).items():
    if counts.keys() == splits.keys():
      if all(counts[split] in splits[split] for split in splits):
        found.append(name)
    elif len(counts) == 1:
      ((split, count),) = counts.items()
      for other in splits if split == 'all' else [split]:
        if count in splits[other]:
          found.append(f'the {other} split of {name}')
  return ' or '.join(found) or None
