"""Config files: loading, overriding, and what to say of a mistyped key."""

import difflib
import importlib.util
import json
import logging
import pathlib
import re
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import app

_LOGGER = logging.getLogger(__name__)

_OVERRIDE = re.compile(r'--?config\.([\w.]+)')
_CONFIG_FILE = 'config.json'


def load(
  path: str, overrides: Mapping[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """Loads a config file, as `--config` does on the command line.

  Args:
    path: a Python file with `get_config(arg)`, and after a colon the argument:
      'configs/rsd/digits.py:smoke'. The library's own are found from anywhere.
    overrides: values by dotted name, as {'optimizer.learning_rate': 0.1}.

  Returns:
    The locked config.

  Raises:
    FileNotFoundError: no such file.
    KeyError: an override names no field; the message lists those there are.
    ValueError: the file has no `get_config`.
  """
  file, _, argument = path.partition(':')
  config = module(file).get_config(argument)
  for name in overrides or {}:
    require_field(config, name)
  config.update_from_flattened_dict(dict(overrides or {}))
  return config.lock()


def module(file: str) -> types.ModuleType:
  """Executes a config file.

  Args:
    file: a Python file with `get_config(arg)`.

  Returns:
    The module.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file has no `get_config`.
  """
  file = _located(file)
  if not pathlib.Path(file).is_file():
    raise FileNotFoundError(f'config file {file} is not there')
  spec = importlib.util.spec_from_file_location('_config', file)
  assert spec is not None and spec.loader is not None, file
  loaded = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(loaded)
  if not hasattr(loaded, 'get_config'):
    raise ValueError(f'config file {file} has no function get_config(arg)')
  return loaded


def require_field(config: ml_collections.ConfigDict, name: str) -> None:
  """Raises KeyError, with the valid names, unless a dotted name is there."""
  block: Any = config
  parts = name.split('.')
  for depth, part in enumerate(parts):
    if not isinstance(block, ml_collections.ConfigDict) or part not in block:
      where = '.'.join(['config', *parts[:depth]])
      if not isinstance(block, ml_collections.ConfigDict):
        raise KeyError(f'{where} is a value, it has no field {part!r}')
      valid = sorted(block.keys())
      close = difflib.get_close_matches(part, valid, n=1)
      hint = f' (did you mean {close[0]!r}?)' if close else ''
      raise KeyError(
        f'{where} has no field {part!r}{hint}; its fields are '
        f'{", ".join(valid)}'
      )
    block = block[part]


def choice(
  config: ml_collections.ConfigDict, name: str, valid: Sequence[str]
) -> str:
  """A field that has one of a few values.

  Args:
    config: the config.
    name: of the field, with dots.
    valid: the values that it may have.

  Returns:
    The value.

  Raises:
    ValueError: the field has another one; names both.
  """
  value: Any = config
  for part in name.split('.'):
    value = value[part]
  if value not in valid:
    raise ValueError(
      f'config.{name} {value!r} must be one of {", ".join(valid)}'
    )
  return value


def parse_flags(arguments: list[str]) -> list[str]:
  """Parses flags for `app.run`, with one clear line for a wrong config.

  Args:
    arguments: the command line, `sys.argv`.

  Returns:
    The arguments that are not flags.
  """
  try:
    number = _number_of_config(arguments)
    if number is not None:
      given = arguments[number]
      flag = given[: given.index('=') + 1] if given.startswith('-') else ''
      file, colon, argument = given[len(flag) :].partition(':')
      path = _located(file) + colon + argument
      arguments = [*arguments[:number], flag + path, *arguments[number + 1 :]]
      config = load(path)
      for argument in arguments[1:]:
        match = _OVERRIDE.match(argument)
        if match:
          require_field(config, match[1])
  except (FileNotFoundError, KeyError, ValueError) as error:
    sys.exit(f'error: {error.args[0]}')
  return app.parse_flags_with_usage(arguments)


def write(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes the resolved config into the run folder, naming what has changed.

  Args:
    config: the config of the run.
    workdir: the run folder; it is made if need be.
  """
  if jax.process_index() > 0:
    return  # All processes have one run folder.
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / _CONFIG_FILE
  new = json.loads(config.to_json_best_effort())
  if path.exists():
    old = _flatten(json.loads(path.read_text()))
    for name, value in _flatten(new).items():
      if old.get(name) != value:
        _LOGGER.warning('config.%s was %r, now %r', name, old.get(name), value)
  path.write_text(json.dumps(new, indent=2) + '\n')


def read(workdir: str | pathlib.Path) -> dict[str, Any]:
  """Reads the config of a run folder.

  Args:
    workdir: the run folder.

  Returns:
    Values by dotted name.

  Raises:
    FileNotFoundError: the folder has no config.
    ValueError: the file is not what `write` writes.
  """
  path = pathlib.Path(workdir) / _CONFIG_FILE
  if not path.is_file():
    raise FileNotFoundError(f'{path} is not there')
  try:
    config = json.loads(path.read_text())
  except ValueError as error:  # Neither text nor JSON.
    raise ValueError(f'{path} is not JSON: {error}') from error
  if not isinstance(config, dict):
    raise ValueError(f'{path} holds no config but a {type(config).__name__}')
  return _flatten(config)


def _number_of_config(arguments: Sequence[str]) -> int | None:
  """Which argument says the config file: `--config=FILE`, or what follows."""
  for number, argument in enumerate(arguments[1:], 1):
    flag, equals, _ = argument.lstrip('-').partition('=')
    if argument.startswith('-') and flag == 'config':
      follows = number + 1 < len(arguments)
      return number if equals else number + 1 if follows else None
  return None


def _located(file: str) -> str:
  """The file, or else the library's own of that name."""
  own = pathlib.Path(__file__).parents[1] / file
  return str(own) if own.is_file() and not pathlib.Path(file).exists() else file


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat
