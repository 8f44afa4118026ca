"""Tables in the docs are what their commands print; examples and links work."""

import itertools
import pathlib
import re
import runpy
import shlex

import pytest

from common import configuration
from rsdjax.models import __main__ as models_command

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
  *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('*.md')),
  *sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / 'docs').rglob('*.md')
  ),
]
# Adapts to a run and patches of the reader's.
NOT_RUN = ('docs/trnr.md',)


def blocks(page: str, *languages: str) -> list[str]:
  """Code blocks of a page, by what stands behind the fence."""
  text = (ROOT / page).read_text()
  found = re.findall(r'^```(\S*)\n(.*?)^```', text, re.S | re.M)
  return [block for language, block in found if language in languages]


def test_table_of_networks_is_current():
  text = (ROOT / 'docs' / 'networks.md').read_text()
  assert text.endswith('\n\n' + models_command.table() + '\n')


@pytest.mark.parametrize(
  'page',
  [x for x in PAGES if x not in NOT_RUN and blocks(x, 'python')],
)
def test_examples_run(page):
  for block in blocks(page, 'python'):
    exec(compile(block, page, 'exec'), {})


def anchors(page: pathlib.Path) -> set[str]:
  """Anchors of the headings of a page, as GitHub makes them."""
  text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M)
  found: set[str] = set()
  for heading in re.findall(r'^#+ +(.+?) *$', text, re.M):
    words = re.sub(r'\[(.*?)\]\(.*?\)', r'\1', heading).lower()
    slug = re.sub(r'[^\w\- ]', '', words).replace(' ', '-')
    for number in itertools.count():
      one = f'{slug}-{number}' if number else slug
      if one not in found:
        found.add(one)
        break
  return found


def broken_links(page: str) -> list[str]:
  """Links and pictures of a page that lead to no file or heading."""
  path = ROOT / page
  text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.S | re.M)
  text = re.sub(r'`[^`\n]*`', '', text)
  links = re.findall(r'\]\(<?([^)\s>]+)>?(?: "[^"]*")?\)', text)
  links += re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
  broken = []
  for link in links:
    if re.match(r'[a-z]+:', link):
      continue  # The network's.
    file, _, anchor = link.partition('#')
    target = (path.parent / file).resolve() if file else path
    if not target.exists() or (anchor and anchor not in anchors(target)):
      broken.append(link)
  return broken


@pytest.mark.parametrize('page', PAGES)
def test_local_links_lead_somewhere(page):
  assert not broken_links(page)


def test_every_page_is_in_the_index():
  index = (ROOT / 'docs' / 'index.md').read_text().splitlines()
  for page in (ROOT / 'docs').glob('*.md'):
    assert page.stem == 'index' or page.stem in index


def commands(page: str) -> list[list[str]]:
  """Commands of a page that run a module of ours, in words."""
  found = []
  for block in blocks(page, '', 'bash', 'sh'):
    for line in block.replace('\\\n', ' ').splitlines():
      _, ours, rest = line.partition('python -m ')
      if ours:
        found.append(shlex.split(rest, comments=True))
  return found


@pytest.mark.parametrize('page', [x for x in PAGES if commands(x)])
def test_commands_name_modules_and_fields_that_exist(page):
  for module, *words in commands(page):
    if module == 'PACKAGE.evaluate' or not re.match(r'[a-z]', module):
      continue
    file = ROOT.joinpath(*module.split('.'))
    assert file.with_suffix('.py').exists() or (file / '__main__.py').exists()
    names = dict(re.findall(r'(--config) (\S+)', ' '.join(words)))
    if names.get('--config', '').startswith('configs/'):
      config = configuration.load(str(ROOT / names['--config']))
      for field in re.findall(r'--config\.([\w.]+)', ' '.join(words)):
        configuration.require_field(config, field)


def test_every_noted_difference_is_listed():
  listed = (ROOT / 'docs' / 'differences.md').read_text()
  for package in ('rsdjax', 'coic', 'trnr', 'common'):
    for path in (ROOT / package).rglob('*.py'):
      if 'Differs from ' in path.read_text():
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        assert f'`{name}`' in listed, name


def test_picture_of_the_methods_is_current():
  path = ROOT / 'docs' / 'images' / 'methods.py'
  made = runpy.run_path(str(path))['draw']()
  assert path.with_suffix('.svg').read_text() == made
