"""Both forms of a layer, side by side."""

import numpy as np

from benchmarks import layers


def test_forms_are_two_and_agree():
  case = layers.Case('pooling', layers.CASES[-1].layer, ((1, 6, 6, 2),))
  ours, plain = (layers.compiled(case, x) for x in ('cpu', 'gpu'))
  assert ours[0].as_text() != plain[0].as_text()
  for first, second in zip(ours[0](*ours[1]), plain[0](*plain[1]), strict=True):
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_row():
  case = layers.Case('pooling', layers.CASES[-1].layer, ((1, 6, 6, 2),))
  cells = layers.measure(case, rounds=1).split('|')[1:-1]
  assert len(cells) == 7
  assert [x.strip() for x in cells[:2]] == ['pooling', '1 x 6 x 6 x 2']
  assert all(float(x.replace(',', '')) >= 0 for x in cells[2:])
