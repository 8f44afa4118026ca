"""Looks and behaviour of a report: one style sheet, one short script."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --card: #fff; --text: #1d1f22; --muted: #656a72;
  --line: #e3e3df; --soft: #efefec; --accent: #2457c5;
  --c0: #2f6bdc; --c1: #d9730d; --c2: #21936a; --c3: #b8439b;
  --c4: #7a55d6; --c5: #9a6a2f; --c6: #1f93ad; --c7: #cc3d3d;
  --mono: ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono',
    monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131518; --card: #1b1e22; --text: #e6e7e9; --muted: #9aa0a8;
    --line: #2d3137; --soft: #24282d; --accent: #86aeff;
    --c0: #6ea0ff; --c1: #f2a04e; --c2: #4fc796; --c3: #e57cc9;
    --c4: #ae92ff; --c5: #cfa266; --c6: #54c3dc; --c7: #f27d7d;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1.5rem; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto,
    'Helvetica Neue', 'Liberation Sans', sans-serif;
  -webkit-text-size-adjust: 100%;
}
.layout { max-width: 1240px; margin: auto; padding: 0 20px 80px; }
header { padding: 40px 0 18px; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; }
h2 { margin: 0; font-size: 1.5rem; letter-spacing: -.015em; }
h3 { margin: 34px 0 12px; font-size: 1.05rem; }
h4 { margin: 18px 0 8px; font-size: .87rem; color: var(--muted);
  font-weight: 600; }
h1, h2, h3, figcaption, .legend, td, th, li { overflow-wrap: break-word; }
p { margin: 6px 0; }
.facts, .note { color: var(--muted); }
.note { font-size: .87rem; max-width: 72ch; }
code, .mono { font-family: var(--mono); font-size: .87em; }
.part { padding-top: 30px; }
.part > section:first-child h3 { margin-top: 0; }
.part + .part { margin-top: 40px; border-top: 1px solid var(--line); }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; margin: 0 0 14px;
}

nav { font-size: .9rem; }
nav ul { list-style: none; margin: 0; padding: 0; display: flex;
  flex-wrap: wrap; gap: 2px 14px; }
nav > ul { flex-direction: column; gap: 8px; }
nav a { color: var(--muted); text-decoration: none; }
nav a:hover, nav a:focus-visible { color: var(--accent);
  text-decoration: underline; }
nav .name { color: var(--text); font-weight: 600; }
@media (min-width: 1000px) {
  .layout { display: grid; grid-template-columns: 150px minmax(0, 1fr);
    column-gap: 44px; }
  header { grid-column: 2; }
  nav { position: sticky; top: 36px; align-self: start; padding-top: 34px;
    max-height: calc(100vh - 36px); overflow-y: auto; }
  nav ul ul { flex-direction: column; border-left: 1px solid var(--line);
    padding-left: 12px; margin-top: 4px; }
  nav > ul { gap: 20px; }
}

.scroll { overflow: auto; padding: 0; }
.scroll > :not(table) { padding: 14px 16px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 8px 14px; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--muted); font-size: .84rem; font-weight: 600;
  vertical-align: bottom; background: var(--soft); }
th small { display: block; font-weight: 400; }
tbody th { font-weight: 500; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
td.number span, td small, td.number .mono { color: var(--muted);
  font-size: .87em; }
td.best { font-weight: 650; }
td.number span { display: block; font-weight: 400; }
tr.mean > * { background: var(--soft); }

.legend { display: flex; flex-wrap: wrap; align-items: center; gap: 6px;
  margin: 0 0 12px; }
.legend .note { margin-left: 6px; }
.legend button {
  font: inherit; font-size: .87rem; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: 99px; padding: 3px 12px 3px
  9px; cursor: pointer; display: flex; align-items: center; gap: 7px;
}
.legend button:hover { border-color: var(--muted); }
.legend button::before { content: ''; width: 14px; border-top: 3px solid
  var(--c); border-radius: 2px; }
.legend button.dashed::before { border-top-style: dashed; }
.legend button[aria-pressed=false] { color: var(--muted);
  text-decoration: line-through; }
.legend button[aria-pressed=false]::before { opacity: .25; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.plots { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 285px), 1fr)); }
.plot { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 10px 10px 4px; }
.plot figcaption { font-family: var(--mono); font-size: .8rem;
  padding: 0 4px 4px; display: flex; justify-content: space-between;
  gap: 8px; }
.plot small { color: var(--muted); font-family: system-ui, sans-serif; }
.plot svg { display: block; width: 100%; height: auto; }
.plot text { fill: var(--muted); font-size: 10.5px;
  font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); }
.baseline { stroke: var(--muted); stroke-dasharray: 4 4; }
.curve polyline { fill: none; stroke: var(--c); stroke-width: 1.9;
  stroke-linejoin: round; }
.curve circle { fill: var(--c); }
.curve:hover polyline { stroke-width: 3.2; }
.dashed polyline { stroke-dasharray: 5 3; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); }
.s3 { --c: var(--c3); } .s4 { --c: var(--c4); } .s5 { --c: var(--c5); }
.s6 { --c: var(--c6); } .s7 { --c: var(--c7); }
[hidden] { display: none !important; }

.pictures { display: grid; gap: 14px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.pictures figure { margin: 0; }
.pictures .wide { grid-column: 1 / -1; }
.picture img { display: block; max-width: 100%; height: auto;
  margin: 0 auto; border-radius: 4px; }
.picture .sheet { background: #fff; border-radius: 6px; padding: 8px; }
.picture .tall { max-height: 560px; overflow-y: auto; }
.pixels { image-rendering: pixelated; }
.picture > figcaption { font-size: .87rem; padding-top: 9px;
  display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; }
figcaption .mono { color: var(--muted); }

.wipe { position: relative; display: grid; --at: 50%; overflow: hidden;
  border-radius: 6px; margin: 0 auto; }
.wipe > img, .wipe > input { grid-area: 1 / 1; width: 100%; border-radius: 0; }
.wipe > .after { clip-path: inset(0 0 0 var(--at)); }
.wipe > input {
  appearance: none; -webkit-appearance: none; height: 100%; margin: 0;
  background: none; opacity: 0; cursor: ew-resize; z-index: 2;
  touch-action: pan-y;
}
.wipe > input::-webkit-slider-thumb { -webkit-appearance: none; width: 2px;
  height: 100%; }
.wipe > input::-moz-range-thumb { width: 2px; border: 0; }
.handle { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 4px #0009;
  pointer-events: none; }
.handle::after { content: '\\2194'; position: absolute; top: 50%; left: 50%;
  width: 34px; height: 34px; margin: -17px; border-radius: 50%;
  background: #fff; color: #222; font: 17px/34px sans-serif;
  text-align: center; box-shadow: 0 1px 5px #0008; }
.wipe > input:focus-visible ~ .handle::after { outline: 3px solid
  var(--accent); outline-offset: 1px; }
.wipe > b { position: absolute; top: 8px; padding: 1px 8px; font-size: .75rem;
  font-weight: 600; border-radius: 99px; color: #fff; background: #000a;
  pointer-events: none; }
.wipe > b:first-of-type { left: 8px; } .wipe > b:last-of-type { right: 8px; }
.steps input { width: 100%; margin: 10px 0 0; accent-color: var(--accent); }

.blocks { columns: 320px; column-gap: 14px; }
.blocks .card { break-inside: avoid; }
.blocks h4 { margin: 0 0 8px; color: var(--text); }
dl { margin: 0; font-size: .87rem; }
dl > div { display: flex; flex-wrap: wrap; gap: 0 14px; padding: 1.5px 0; }
dt { color: var(--muted); }
dt, dd { overflow-wrap: anywhere; }
dd { margin: 0 0 0 auto; text-align: right; font-family: var(--mono);
  font-size: .95em; }
details > summary { cursor: pointer; }
details.card > summary { font-weight: 600; }
details.card > summary span { color: var(--muted); font-weight: 400;
  margin-left: 8px; }
details[open].card > summary { margin-bottom: 12px; }
.modules { padding: 6px 0; }
.modules details { padding: 0 16px; }
.modules summary { padding: 7px 0; display: grid; align-items: center;
  grid-template-columns: minmax(0, 1fr) minmax(40px, 160px) 8ch; gap: 14px;
  font-variant-numeric: tabular-nums; }
.modules summary .mono::before { content: '\\25b8'; color: var(--muted);
  display: inline-block; width: 1.4em; }
.modules details[open] > summary .mono::before { content: '\\25be'; }
.modules summary .mono { white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.modules td.mono { overflow-wrap: anywhere; }
.modules summary::-webkit-details-marker { display: none; }
.modules .bar { height: 6px; border-radius: 3px; background: var(--soft); }
.modules .bar i { display: block; height: 100%; border-radius: 3px;
  background: var(--c0); min-width: 2px; }
.modules summary > :last-child { text-align: right; }
.modules table { font-size: .84rem; margin: 0 0 10px; }
.modules td { padding: 3px 0 3px 1.4em; border: 0; color: var(--muted); }
pre { margin: 0; white-space: pre-wrap; font-family: var(--mono);
  font-size: .8rem; }
@media (max-width: 640px) {
  .modules details { padding: 0; }
  .modules summary { grid-template-columns: minmax(0, 1fr) auto; }
  .modules .bar { display: none; }
  th, td { padding: 8px 10px; }
  .wide .sheet { overflow-x: auto; }
  .wide .sheet img { max-width: none; width: 600px; }
}
@media print { nav { display: none; } .card, .plot { break-inside: avoid; } }
"""

SCRIPT = """
'use strict';
document.addEventListener('input', ({target}) => {
  const box = target.parentElement;
  if (target.matches('.wipe > input')) {
    box.style.setProperty('--at', target.value + '%');
  } else if (target.matches('.steps > input')) {
    box.querySelectorAll('[data-step]').forEach((picture, index) => {
      picture.hidden = index !== Number(target.value);
      if (!picture.hidden) {
        box.querySelector('output').value = 'step ' + picture.dataset.step;
      }
    });
  }
});
document.addEventListener('click', ({target}) => {
  const button = target.closest('.legend button');
  if (!button) return;
  const shown = button.getAttribute('aria-pressed') === 'false';
  button.setAttribute('aria-pressed', String(shown));
  button.closest('section').querySelectorAll('.curve').forEach((curve) => {
    if (curve.dataset.style === button.dataset.style) {
      curve.toggleAttribute('hidden', !shown);
    }
  });
});
"""
