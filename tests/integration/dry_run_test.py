"""The flag `--dry_run`, as a user gives it."""

from tests.integration import commands


def test_dry_run_prints_and_ends(tmp_path):
  (outcome,) = commands.run(
    'rsdjax.main',
    '--config=configs/rsd/digits.py:smoke',
    f'--workdir={tmp_path}',
    '--config.model.depth=1',
    '--config.distiller.name=none',
    '--config.train.data_workers=1',
    '--dry_run',
    devices=2,
    environment={'JAX_COMPILATION_CACHE_DIR': str(tmp_path.with_name('xla'))},
  )
  assert 'on each of 2 devices (cpu)' in outcome.out
  files = [x for x in tmp_path.rglob('*') if x.is_file()]
  assert files == [tmp_path / 'dry_run' / 'batch.png']
