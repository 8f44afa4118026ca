"""Draws `methods.svg`, the three methods in one picture.

  python docs/images/methods.py

Light and dark: the picture has a ground of its own, and follows the reader's
colour scheme. A test keeps the file to what this draws.
"""

import pathlib
import random

PATH = pathlib.Path(__file__).with_suffix('.svg')
_STYLE = """
svg{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
.ground{fill:#fff}.panel{fill:#f5f7fa;stroke:#d5dbe3}.box{fill:#fff;stroke:#8593a6}
text{fill:#24303f}.soft{fill:#5c6b7d}.line{stroke:#5c6b7d;fill:none}
.head{fill:#5c6b7d}.name{font-weight:700;font-size:17px}.code{font-family:
ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12px}
.cell{stroke:#fff;stroke-width:1}.off{fill:#e3e8ee}
@media(prefers-color-scheme:dark){.ground{fill:#11161d}.panel{fill:#1a212b;
stroke:#323d4b}.box{fill:#232d3a;stroke:#6d7c90}text{fill:#e3e9f1}
.soft{fill:#9fadbf}.line{stroke:#9fadbf}.head{fill:#9fadbf}
.cell{stroke:#1a212b}.off{fill:#2c3745}}
"""
_BLUE, _ORANGE = '#2f7fd1', '#e0812c'
_CLUSTERS = ('#3d8fd9', '#4fae7b', '#dd7f3a')


def draw() -> str:
  """The picture as SVG."""
  rng = random.Random(3)
  parts = [
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 606" '
    'width="960" height="606" role="img" aria-label="The methods RSD, CoIC and '
    'TRNR">',
    f'<style>{_STYLE.strip()}</style>',
    '<rect class="ground" width="960" height="606" rx="14"/>',
    *_panel(12, 'RSD', 'A student learns what its teacher knows, and no more'),
    *_rsd(rng, 12),
    *_panel(208, 'CoIC', 'One derainer, whose kernels follow the picture'),
    *_coic(rng, 208),
    *_panel(404, 'TRNR', 'Few pictures, many tasks'),
    *_trnr(rng, 404),
    '</svg>',
  ]
  return '\n'.join(parts) + '\n'


def _rsd(rng: random.Random, top: int) -> list[str]:
  """Embeddings, decoupler, their correlation, the identity."""
  start, goal = [], []
  for i in range(8):
    for j in range(8):
      near = 0.75 if i == j else 0.45
      start.append((near * rng.random() + (0.2 if i == j else 0.0), i, j))
      goal.append((1.0 if i == j else 0.0, i, j))
  return [
    *_embedding(rng, 36, top + 48, _BLUE),
    _text(36, top + 92, 'student', 'soft'),
    *_embedding(rng, 36, top + 112, _ORANGE),
    _text(36, top + 156, 'teacher (frozen)', 'soft'),
    _arrow(158, top + 63, 196, top + 63),
    *_box(200, top + 44, 120, 38, 'decoupler'),
    _arrow(324, top + 63, 402, top + 88),
    _arrow(158, top + 127, 402, top + 112),
    *_matrix(start, 412, top + 44, 112),
    _text(468, top + 174, 'correlation P over the batch', 'soft', 'middle'),
    _arrow(540, top + 100, 664, top + 100),
    _text(602, top + 88, 'rsd_loss', 'code', 'middle'),
    _text(602, top + 122, 'minimise', 'soft', 'middle'),
    *_matrix(goal, 680, top + 44, 112),
    _text(736, top + 174, 'identity', 'soft', 'middle'),
    _text(812, top + 84, 'Diagonal 1: alike'),
    _text(812, top + 108, 'Others 0: no'),
    _text(812, top + 126, 'redundancy'),
  ]


def _coic(rng: random.Random, top: int) -> list[str]:
  """Rainy picture, encoder, z, modulated derainer, clean picture."""
  z = [(0.15 + 0.85 * rng.random(), 0, j) for j in range(9)]
  masks = [
    x
    for k in range(3)
    for x in _matrix(
      [(rng.random(), i, j) for i in range(3) for j in range(3)],
      500 + 46 * k,
      top + 112,
      36,
      _ORANGE,
    )
  ]
  return [
    *_scene(rng, 36, top + 46, 110, rain=70),
    _text(91, top + 174, 'rainy', 'soft', 'middle'),
    _arrow(152, top + 65, 206, top + 65),
    *_box(210, top + 46, 100, 38, 'encoder'),
    _arrow(314, top + 65, 344, top + 65),
    *_matrix(z, 352, top + 56, 162, _ORANGE, columns=9),
    _text(433, top + 94, 'z: rain and detail', 'soft', 'middle'),
    _arrow(518, top + 65, 564, top + 104, 'M518 {0}H564V{1}'),
    _arrow(152, top + 130, 476, top + 130),
    *_box(480, top + 106, 168, 48, ''),
    *masks,
    _text(564, top + 174, 'derainer, masked kernels', 'soft', 'middle'),
    _arrow(652, top + 130, 676, top + 130),
    *_scene(rng, 684, top + 46, 110, rain=0),
    _text(739, top + 174, 'clean', 'soft', 'middle'),
    _text(812, top + 84, 'The encoder'),
    _text(812, top + 102, 'learns to tell rain'),
    _text(812, top + 120, 'and detail apart,'),
    _text(812, top + 138, 'by contrast'),
  ]


def _trnr(rng: random.Random, top: int) -> list[str]:
  """A picture in patches, their clusters, tasks, adaptation."""
  lines = ''.join(
    f'M{36 + 30 * k} {top + 54}v120M36 {top + 54 + 30 * k}h120'
    for k in range(1, 4)
  )
  shapes = [
    *_scene(rng, 36, top + 54, 120, rain=0),
    f'<path d="{lines}" stroke="#fff" stroke-width="2"/>',
    _arrow(162, top + 114, 206, top + 114),
    _text(96, top + 46, 'patches', 'soft', 'middle'),
    _text(277, top + 46, 'clusters by histogram', 'soft', 'middle'),
  ]
  for k, colour in enumerate(_CLUSTERS):
    y = top + 56 + 42 * k
    shapes.append(
      f'<rect class="box" x="212" y="{y}" width="130" height="34" rx="17"/>'
    )
    shapes += [_patch(226 + 27 * i, y + 7, colour, rng) for i in range(4)]
  shapes += [
    _arrow(348, top + 114, 392, top + 114),
    _text(479, top + 46, 'tasks', 'soft', 'middle'),
  ]
  for k in range(2):
    y = top + 56 + 62 * k
    shapes.append(
      f'<rect class="box" x="398" y="{y}" width="162" height="54" rx="8"/>'
    )
    for side, name in enumerate(('support', 'query')):
      x = 410 + 78 * side
      shapes.append(_text(x + 30, y + 47, name, 'soft', 'middle'))
      colours = rng.sample(_CLUSTERS, 2)
      shapes += [
        _patch(x + 8 + 26 * i, y + 9, colour, rng)
        for i, colour in enumerate(colours)
      ]
  return [
    *shapes,
    _arrow(566, top + 83, 610, top + 83),
    *_box(614, top + 64, 150, 38, 'adapt: 2 steps'),
    _arrow(689, top + 104, 689, top + 124),
    _arrow(566, top + 146, 610, top + 146),
    *_box(614, top + 128, 150, 38, 'loss on the query'),
    _arrow(768, top + 147, 768, top + 84, 'M768 {0}H792V{1}H770'),
    _text(806, top + 96, 'Its gradient'),
    _text(806, top + 114, 'moves the weights'),
    _text(806, top + 132, 'that all tasks'),
    _text(806, top + 150, 'begin with'),
  ]


def _panel(top: int, name: str, claim: str) -> list[str]:
  return [
    f'<rect class="panel" x="12" y="{top}" width="936" height="190" rx="10"/>',
    _text(36, top + 28, name, 'name'),
    _text(96, top + 28, claim, 'soft'),
  ]


def _text(
  x: int, y: int, words: str, style: str = '', anchor: str = 'start'
) -> str:
  return (
    f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{words}'
    '</text>'
  )


def _box(x: int, y: int, width: int, height: int, words: str) -> list[str]:
  return [
    f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" '
    'rx="8"/>',
    _text(x + width // 2, y + height // 2 + 5, words, '', 'middle'),
  ]


def _arrow(x: int, y: int, to_x: int, to_y: int, route: str = '') -> str:
  """A line, straight or by a route of its own, with a head at its end."""
  if route:
    path = route.format(y, to_y)
    across, down = (-1, 0) if path.endswith('H770') else (0, 1)
  else:
    path = f'M{x} {y}L{to_x} {to_y}'
    length = max(((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5, 1)
    across, down = (to_x - x) / length, (to_y - y) / length
  points = (
    (to_x, to_y),
    (to_x - 8 * across - 4 * down, to_y - 8 * down + 4 * across),
    (to_x - 8 * across + 4 * down, to_y - 8 * down - 4 * across),
  )
  corners = ' '.join(f'{a:.1f},{b:.1f}' for a, b in points)
  return (
    f'<path class="line" d="{path}" stroke-width="1.6"/>'
    f'<polygon class="head" points="{corners}"/>'
  )


def _embedding(rng: random.Random, x: int, y: int, colour: str) -> list[str]:
  cells = [(rng.random(), i, j) for i in range(2) for j in range(8)]
  return _matrix(cells, x, y, 116, colour, columns=8)


def _matrix(
  cells: list[tuple[float, int, int]],
  x: int,
  y: int,
  width: int,
  colour: str = _BLUE,
  columns: int = 0,
) -> list[str]:
  """Squares of a colour, as strong as their value in [0, 1]."""
  side = width / (columns or round(len(cells) ** 0.5))
  drawn = []
  for value, i, j in cells:
    place = (
      f'x="{x + j * side:.1f}" y="{y + i * side:.1f}" width="{side:.1f}" '
      f'height="{side:.1f}"'
    )
    drawn.append(f'<rect class="cell off" {place}/>')
    if value > 0:
      drawn.append(
        f'<rect class="cell" {place} fill="{colour}" '
        f'fill-opacity="{value:.2f}"/>'
      )
  return drawn


def _patch(x: int, y: int, colour: str, rng: random.Random) -> str:
  a, b = rng.randint(5, 11), rng.randint(9, 15)
  return (
    f'<rect x="{x}" y="{y}" width="20" height="20" rx="2" fill="{colour}"/>'
    f'<path d="M{x} {y + b}L{x + a} {y + 6}L{x + 20} {y + b}V{y + 20}H{x}Z" '
    'fill="#000" fill-opacity=".22"/>'
  )


def _scene(
  rng: random.Random, x: int, y: int, size: int, *, rain: int
) -> list[str]:
  """Hills, a house and the sun; with streaks of rain over it or without."""
  drawn = [
    f'<svg x="{x}" y="{y}" width="{size}" height="{size}" '
    'viewBox="0 0 120 120">',
    '<rect width="120" height="120" rx="6" fill="#9cc9ee"/>',
    '<circle cx="92" cy="27" r="13" fill="#f6d365"/>',
    '<path d="M0 78Q30 48 62 74T120 62V120H0Z" fill="#6fa86a"/>',
    '<path d="M0 96Q40 78 120 98V120H0Z" fill="#4c8550"/>',
    '<path d="M34 92V68L50 54L66 68V92Z" fill="#c8674b"/>',
    '<path d="M30 70L50 50L70 70Z" fill="#7d3f33"/>',
    '<rect x="45" y="74" width="10" height="18" fill="#5a2f28"/>',
  ]
  if rain:
    streaks = ''.join(
      f'M{rng.randint(0, 118)} {rng.randint(0, 104)}l-4 {rng.randint(10, 20)}'
      for _ in range(rain)
    )
    drawn += [
      '<rect width="120" height="120" rx="6" fill="#5b6775" '
      'fill-opacity=".3"/>',
      f'<path d="{streaks}" stroke="#fff" stroke-opacity=".75" '
      'stroke-width="1.3"/>',
    ]
  return [*drawn, '</svg>']


if __name__ == '__main__':
  PATH.write_text(draw())
