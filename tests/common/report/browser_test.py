"""A report in a real browser, without a window: Chromium, where there is one.

Chromium is driven by its DevTools protocol over two pipes, which needs nothing
but the browser.
"""

import base64
import io
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from common import report

CHROMIUM = next(
  filter(
    None,
    map(
      shutil.which,
      ('chromium', 'chromium-browser', 'google-chrome', 'chrome'),
    ),
  ),
  None,
)
FLAGS = (
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--hide-scrollbars',
  '--remote-debugging-pipe',
)
# The browser reads file descriptor 3 and writes 4.
LAUNCHER = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(x), fcntl.F_DUPFD, 10) for x in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
  os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
SECONDS = 60

pytestmark = pytest.mark.skipif(
  CHROMIUM is None or os.name != 'posix',
  reason='no Chromium on this machine (Debian: apt-get install chromium)',
)


class Browser:
  """One page of a headless Chromium."""

  def __init__(self, folder):
    theirs, self._out = os.pipe()
    self._in, their_out = os.pipe()
    command = [sys.executable, '-c', LAUNCHER, str(theirs), str(their_out)]
    command += [CHROMIUM, *FLAGS, f'--user-data-dir={folder}']
    self._process = subprocess.Popen(
      command,
      pass_fds=(theirs, their_out),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    )
    os.close(theirs)
    os.close(their_out)
    self._buffer, self._numbers = b'', itertools.count(1)
    self._session = None
    self.events = []
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    self._session = self.call(
      'Target.attachToTarget', targetId=target, flatten=True
    )['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')

  def call(self, method, **params):
    number = next(self._numbers)
    message = {'id': number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._out, json.dumps(message).encode() + b'\0')
    while (answer := self._read()).get('id') != number:
      self.events.append(answer)
    assert 'error' not in answer, answer
    return answer['result']

  def _read(self):
    deadline = time.monotonic() + SECONDS
    while b'\0' not in self._buffer:
      left = max(0, deadline - time.monotonic())
      assert select.select([self._in], [], [], left)[0], 'no answer'
      data = os.read(self._in, 1 << 16)
      assert data, 'the browser has ended'
      self._buffer += data
    message, self._buffer = self._buffer.split(b'\0', 1)
    return json.loads(message)

  def open(self, path, *, width=1280, dark=False):
    self.call(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=900,
      deviceScaleFactor=1,
      mobile=False,
    )
    scheme = 'dark' if dark else 'light'
    self.call(
      'Emulation.setEmulatedMedia',
      features=[{'name': 'prefers-color-scheme', 'value': scheme}],
    )
    self.events = []
    self.call('Page.navigate', url=path.as_uri())
    while not any(x['method'] == 'Page.loadEventFired' for x in self.events):
      self.events.append(self._read())

  def evaluate(self, expression):
    answer = self.call(
      'Runtime.evaluate', expression=expression, returnByValue=True
    )
    assert 'exceptionDetails' not in answer, answer
    return answer['result'].get('value')

  def mouse(self, kind, x, y, **options):
    self.call(
      'Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', **options
    )

  def drag(self, start, end):
    self.mouse('mousePressed', *start, clickCount=1)
    for i in range(1, 5):
      self.mouse(
        'mouseMoved',
        *(a + (b - a) * i / 4 for a, b in zip(start, end, strict=True)),
        buttons=1,
      )
    self.mouse('mouseReleased', *end, clickCount=1)

  def press(self, key):
    for kind in ('keyDown', 'keyUp'):
      self.call(
        'Input.dispatchKeyEvent',
        type=kind,
        key=key,
        code=key,
        windowsVirtualKeyCode={'ArrowLeft': 37, 'ArrowRight': 39}[key],
      )

  def screenshot(self):
    data = self.call('Page.captureScreenshot', format='png')['data']
    return Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB')

  def box(self, selector):
    """Left, top, width and height of an element, which is scrolled to."""
    return self.evaluate(f"""(() => {{
      const element = document.querySelector({json.dumps(selector)});
      element.scrollIntoView({{block: 'center', behavior: 'instant'}});
      const {{x, y, width, height}} = element.getBoundingClientRect();
      return [x, y, width, height];
    }})()""")

  def complaints(self):
    """Messages, exceptions, and whatever was asked of a network."""
    requests = [
      x['params']['request']['url']
      for x in self.events
      if x['method'] == 'Network.requestWillBeSent'
    ]
    return [
      x
      for x in self.events
      if x['method']
      in (
        'Runtime.consoleAPICalled',
        'Runtime.exceptionThrown',
        'Log.entryAdded',
      )
    ] + [url for url in requests if not url.startswith(('file:', 'data:'))]

  def close(self):
    try:
      self._session = None
      self.call('Browser.close')
      self._process.wait(10)
    except (AssertionError, OSError, subprocess.TimeoutExpired):
      os.killpg(self._process.pid, signal.SIGKILL)
      self._process.wait()
    os.close(self._in)
    os.close(self._out)


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  started = Browser(tmp_path_factory.mktemp('profile'))
  yield started
  started.close()


@pytest.fixture(scope='module')
def page(tmp_path_factory, make_run, add_pictures):
  """A comparison of two methods, one of them with two seeds."""
  folder = tmp_path_factory.mktemp('report')
  for name in ('coic_seed0', 'coic_seed1', 'plain_seed0'):
    make_run(folder / 'runs' / name)
  add_pictures(folder / 'runs' / 'coic_seed0')
  (folder / 'runs' / 'table.md').write_text('| a | b |\n|---|---|\n| c | 1 |\n')
  report.write_report([folder / 'runs'], folder / 'report.html')
  return folder / 'report.html'


@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 400])
def test_renders(browser, page, width, dark):
  browser.open(page, width=width, dark=dark)
  assert browser.evaluate(
    "[...document.querySelectorAll('h3')].map((x) => x.innerText)"
  ) == [
    'Comparison',
    'Scores',
    'Before and after',
    'Curves',
    'While training',
    'Figures',
    'Config',
    'Parameters',
  ]
  widths = browser.evaluate(
    '[...document.images].map((x) => x.complete && x.naturalWidth)'
  )
  assert widths == [60, 60, 60, 60, 60, 1000]
  # Nothing is cut off at the right; wide tables scroll by themselves.
  assert browser.evaluate('document.documentElement.scrollWidth') == width
  assert browser.evaluate('document.querySelectorAll("polyline").length') == 9
  background = browser.screenshot().getpixel((2, 2))
  assert (max(background) < 60) == dark
  assert browser.complaints() == []


def test_before_and_after_by_mouse_and_keys(browser, page):
  browser.open(page)
  x, y, width, height = browser.box('.wipe')
  assert width > 300, 'small pictures are enlarged'

  def shown():
    """Colours at 35 and 65 percent, above the handle."""
    picture = browser.screenshot()
    return [
      'before' if pixel[0] > pixel[2] else 'after'
      for pixel in (
        picture.getpixel((round(x + width * part), round(y + height * 0.8)))
        for part in (0.35, 0.65)
      )
    ]

  def clip():
    return browser.evaluate(
      'getComputedStyle(document.querySelector(".wipe .after")).clipPath'
    )

  def middle(part):
    return x + width * part, y + height / 2

  assert shown() == ['before', 'after']
  clips = [clip()]
  browser.drag(middle(0.5), middle(0.2))
  clips.append(clip())
  assert shown() == ['after', 'after']
  browser.drag(middle(0.2), middle(0.9))
  clips.append(clip())
  assert shown() == ['before', 'before']
  for _ in range(3):
    browser.press('ArrowLeft')
  clips.append(clip())
  assert len(set(clips)) == 4, clips
  # Where the mouse let go, and three half percents to the left of it.
  position = float(
    browser.evaluate('document.querySelector(".wipe input").value')
  )
  assert position == pytest.approx(90 - 1.5, abs=1)
  assert browser.complaints() == []


def test_steps_by_keys(browser, page):
  browser.open(page)

  def shown():
    return browser.evaluate("""[
      document.querySelector('.steps output').value,
      [...document.querySelectorAll('[data-step]')]
        .filter((x) => x.offsetHeight > 0).map((x) => x.dataset.step).join(),
    ]""")

  assert shown() == ['step 300', '300']
  browser.evaluate('document.querySelector(".steps > input").focus()')
  browser.press('ArrowLeft')
  assert shown() == ['step 20', '20']
  browser.press('ArrowRight')
  assert shown() == ['step 300', '300']
  assert browser.complaints() == []


def test_methods_can_be_hidden(browser, page):
  browser.open(page)
  visible = """[...document.querySelectorAll('.curve')]
    .filter((x) => getComputedStyle(x).display !== 'none').length"""
  everything = browser.evaluate(visible)
  x, y, width, height = browser.box('.legend button')
  for expected in (everything // 3, everything):
    browser.drag((x + width / 2, y + height / 2), (x + width / 2, y + 5))
    assert browser.evaluate(visible) == expected
  assert browser.complaints() == []
