"""What is measured, one topic per file."""

from collections.abc import Iterator

from benchmarks.side_by_side import Case


def all_cases() -> Iterator[Case]:
  """Every case, in the order of the table."""
  from benchmarks.cases import coic, inference, patches, pipelines, rsd, trnr

  for module in (rsd, trnr, coic, inference, patches, pipelines):
    yield from module.cases()
