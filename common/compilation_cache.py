"""Compiled programs kept on disk, so that a second run starts at once."""

import os
import pathlib

import jax


def enable() -> None:
  """Keeps compiled programs in the user's cache folder.

  The variable JAX_COMPILATION_CACHE_DIR names another folder; where JAX knows
  one already, that stays. Results are the same with and without.
  """
  if jax.config.values['jax_compilation_cache_dir'] is None:
    base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    jax.config.update(
      'jax_compilation_cache_dir', str(pathlib.Path(base) / 'rsdjax' / 'xla')
    )
