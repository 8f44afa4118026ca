"""The steps of configs can be traced for what the benchmarks count."""

from benchmarks import step_programs
from common import configuration


def test_steps_of_both_stages_of_coic():
  plain, contrastive = (
    step_programs.coic_program(
      configuration.load(
        f'configs/coic/mixed.py:brn,{method}', {'data.crop': 32}
      ),
      rows=1,
    ).multiply_adds()
    for method in ('baseline', 'coic')
  )
  # The second has an encoder, and what it makes modulates the network.
  assert 0 < plain < contrastive
