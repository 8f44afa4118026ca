import logging
import pathlib

import pytest

from common import configuration

FILE = """
import ml_collections

def get_config(arg=''):
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.optimizer = ml_collections.ConfigDict(
    dict(learning_rate=0.1, name='sgd')
  )
  config.small = arg == 'smoke'
  return config.lock()
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'config.py'
  path.write_text(FILE)
  return str(path)


def test_argument_and_overrides(file):
  config = configuration.load(
    f'{file}:smoke', {'optimizer.learning_rate': 0.5, 'seed': 3}
  )
  assert config.small and config.seed == 3
  assert config.optimizer.to_dict() == {'learning_rate': 0.5, 'name': 'sgd'}
  assert config.is_locked


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    (
      'optimizer.learning_rte',
      r"config.optimizer has no field 'learning_rte' \(did you mean "
      r"'learning_rate'\?\); its fields are learning_rate, name",
    ),
    ('sead', "config has no field 'sead'"),
    ('seed.x', "config.seed is a value, it has no field 'x'"),
  ],
)
def test_a_mistyped_key_lists_the_fields(file, name, message):
  with pytest.raises(KeyError, match=message):
    configuration.load(file, {name: 1})
  for form in (['--config', file], [f'--config={file}']):
    with pytest.raises(SystemExit, match='error: ' + message):
      configuration.parse_flags(['program', *form, f'--config.{name}=1'])


def test_a_missing_file_is_named():
  with pytest.raises(FileNotFoundError, match=r'absent.py is not there'):
    configuration.load('absent.py')


def test_a_file_without_get_config_is_named(tmp_path):
  path = tmp_path / 'empty.py'
  path.write_text('')
  with pytest.raises(ValueError, match=r'empty.py has no function get_config'):
    configuration.load(str(path))


def test_the_written_config_names_changes(file, tmp_path, caplog):
  configuration.write(configuration.load(file), tmp_path / 'run')
  with caplog.at_level(logging.WARNING):
    configuration.write(configuration.load(file), tmp_path / 'run')
    assert not caplog.messages
    changed = configuration.load(file, {'optimizer.learning_rate': 0.5})
    configuration.write(changed, tmp_path / 'run')
  assert caplog.messages == ['config.optimizer.learning_rate was 0.1, now 0.5']


def test_the_written_config_is_read_by_dotted_name(file, tmp_path):
  configuration.write(configuration.load(file), tmp_path)
  assert configuration.read(tmp_path) == {
    'seed': 0,
    'optimizer.learning_rate': 0.1,
    'optimizer.name': 'sgd',
    'small': False,
  }


def test_a_config_that_cannot_be_read_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'config.json is not there'):
    configuration.read(tmp_path)
  path = tmp_path / 'config.json'
  for data, message in ((b'{', 'is not JSON'), (b'\xff', 'is not JSON')):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f'config.json {message}'):
      configuration.read(tmp_path)
  path.write_text('[]')
  with pytest.raises(ValueError, match=r'config.json holds no config'):
    configuration.read(tmp_path)


@pytest.mark.parametrize('joined', [True, False])
def test_own_configs_are_found_from_anywhere(tmp_path, monkeypatch, joined):
  monkeypatch.chdir(tmp_path)
  path = 'configs/trnr/own_pairs.py:smoke'
  assert configuration.load(path).sampling.name == 'rcs'
  flag = [f'--config={path}'] if joined else ['--config', path]
  seen = []
  monkeypatch.setattr(
    configuration.app, 'parse_flags_with_usage', lambda args: seen.extend(args)
  )
  configuration.parse_flags(['program', *flag, '--config.seed=1'])
  value = seen[-2].removeprefix('--config=')
  file, _, argument = value.partition(':')
  assert argument == 'smoke' and pathlib.Path(file).is_file()
