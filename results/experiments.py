"""All experiments, in the order in which they run."""

from results import across, coic, rsd, trnr
from results.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
  *trnr.PUBLISHED,
  *coic.PUBLISHED,
  *rsd.EXPERIMENTS,
  *trnr.EXPERIMENTS,
  *coic.EXPERIMENTS,
  *across.EXPERIMENTS,
)
