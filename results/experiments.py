"""All experiments, in the order in which they run."""

from results import across, coic, quickstart, rsd, trnr
from results.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
  *quickstart.EXPERIMENTS,
  *trnr.PUBLISHED,
  *coic.PUBLISHED,
  *rsd.EXPERIMENTS,
  *trnr.EXPERIMENTS,
  *coic.EXPERIMENTS,
  *across.EXPERIMENTS,
)
