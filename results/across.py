"""What no one has tried: parts of one method in another."""

from results.experiment import Experiment

EXPERIMENTS = (
  Experiment(
    name='across_methods',
    title='Across the three methods',
    question='Does RSD help a derainer that another architecture teaches, and '
    'do tasks help a backbone with CoI-M?',
    protocol='As for the methods that are put together.',
    not_run=(
      (
        'A derainer taught by another architecture, RSD on pooled embeddings',
        'no command trains a derainer from a teacher',
      ),
      (
        "TRNR's tasks for a backbone with CoI-M",
        'no command adapts a modulated network to tasks',
      ),
    ),
  ),
)
