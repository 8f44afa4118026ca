"""The steps of configs can be traced for what the benchmarks count."""

import pytest

from benchmarks import step_programs
from common import configuration


@pytest.mark.parametrize('method', ['baseline', 'coic'])
def test_steps_of_both_stages_of_coic(method):
  config = configuration.load(
    f'configs/coic/mixed.py:brn,{method}', {'data.crop': 32}
  )
  one, two = (
    step_programs.coic_program(config, rows).multiply_adds() for rows in (1, 2)
  )
  assert two == pytest.approx(2 * one, rel=0.01)
