import pytest

from common.data import versions


@pytest.mark.parametrize(
  'layout, counts, version',
  [
    ('rain100l', {'train': 200, 'test': 100}, 'Rain100L'),
    ('rain100h', {'train': 1800, 'test': 100}, 'Rain100H'),
    ('rain200l', {'train': 1800, 'test': 200}, 'Rain200L (RainLight)'),
    ('spa', {'train': 637999, 'test': 1000}, 'SPA-Data'),
    ('rain1400', {'all': 12600}, 'the train split of Rain1400 (DDN-Data)'),
    ('did', {'test': 1200}, 'the test split of DID-Data (Rain1200)'),
    ('realint', {'all': 147}, 'RealInt'),
    ('rain100l', {'train': 200, 'test': 99}, None),
    ('rain100l', {'train': 100}, None),
    ('pairs', {'all': 100}, None),
  ],
)
def test_versions_by_counts(layout, counts, version):
  assert versions.identify(layout, counts) == version


def test_versions_of_one_size():
  assert versions.identify('rain100h', {'train': 1254, 'test': 100}) == (
    'Rain100H without the backgrounds of its test pairs'
  )
  assert versions.identify('rain100h', {'test': 100}) == (
    'the test split of Rain100H or the test split of Rain100H without the '
    'backgrounds of its test pairs'
  )
