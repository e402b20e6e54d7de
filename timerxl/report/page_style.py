"""The one stylesheet and the few lines of script of a report page."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --dim: #595959; --paper: #ffffff;
  --card: #f4f5f6; --line: #c9cdd1; --blue: #0072b2; --vermillion: #d55e00; --green: #009e73;
  --purple: #cc79a7; --orange: #e69f00; --sky: #56b4e9; --bad: #a63c00; --warn: #7a5a00;
  --good: #00664a; --note: #00588f; --loud: #ffe9c7; --loud-ink: #4a2c00;
  --shade: #9aa0a6; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --dim: #b0b4b8; --paper: #16181a;
  --card: #212428; --line: #454a50; --blue: #4aa8e8; --vermillion: #ff8b45; --green: #2fc79b;
  --purple: #e6a3c8; --orange: #f0b73a; --sky: #8fd0f7; --bad: #ff9a5c; --warn: #f0c345;
  --good: #4fd6ae; --note: #7cc4f5; --loud: #4a3410; --loud-ink: #ffdf9e;
  --shade: #7b828a; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0 auto; max-width: 82rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .25rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line);
  padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .4rem 0; max-width: 48rem; } .dim { color: var(--dim); } small { font-size: .82em; }
a { color: var(--note); } code, pre { font-family: ui-monospace, monospace; font-size: .88em; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .6rem 0; }
.outcome { display: inline-block; font-weight: 700; letter-spacing: .03em; padding: .1rem .6rem;
  border: 2px solid currentColor; border-radius: .3rem; }
.finished { color: var(--good); } .stopped, .failed { color: var(--bad); }
.running { color: var(--note); } .unknown { color: var(--dim); }
.loud { background: var(--loud); color: var(--loud-ink); border-left: .4rem solid var(--orange);
  padding: .5rem .9rem; margin: .6rem 0; border-radius: .3rem; max-width: none; }
article { background: var(--card); border-left: .4rem solid var(--line); margin: .75rem 0;
  padding: .6rem .9rem; border-radius: .3rem; }
article.certain, article.fault { border-color: var(--vermillion); }
article.suspected, article.warning { border-color: var(--orange); }
article.info { border-color: var(--blue); }
.tag { font-weight: 700; font-size: .85rem; letter-spacing: .03em; }
.certain .tag, .fault .tag { color: var(--bad); }
.suspected .tag, .warning .tag { color: var(--warn); } .info .tag { color: var(--note); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: .4rem 1.2rem; margin: .6rem 0; }
dt { color: var(--dim); font-size: .85rem; } dd { margin: 0; font-weight: 600; }
.figures { display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; padding: .5rem .7rem .6rem; background: var(--card); border-radius: .3rem;
  min-width: 0; }
figure h3 { margin: 0 0 .2rem; } figcaption { font-size: .85rem; color: var(--dim); }
svg { display: block; width: 100%; height: auto; max-width: 34rem; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: system-ui, sans-serif; }
/* A shade at the right edge tells of columns beyond it; the last column brings its own cover. */
.wide { --under: var(--paper); overflow-x: auto; margin: .5rem 0; max-width: 100%;
  background: linear-gradient(to left, var(--under) 1rem, transparent) right / 2.5rem 100% local,
  linear-gradient(to left, var(--shade), transparent) right top / 1rem calc(100% - 2px) scroll;
  background-repeat: no-repeat; }
article .wide { --under: var(--card); }
.wide:focus-visible { outline: 2px solid var(--note); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; font-size: .92rem; }
th, td { padding: .25rem .65rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: bottom; overflow-wrap: normal; }
td { vertical-align: top; white-space: nowrap; } .n { text-align: right; }
td small, th small { display: block; color: var(--dim); font-weight: 400; }
td.words { min-width: 14rem; white-space: normal; overflow-wrap: anywhere; }
th[scope=row] { font-weight: 400; vertical-align: top; position: sticky; left: 0;
  background: var(--paper); }
th:first-child { padding-left: 0; } th.long { min-width: 8.5rem; }
th.long[scope=row] { overflow-wrap: anywhere; }
article th[scope=row] { background: var(--card); }
@media (max-width: 40rem) {
  th, td { padding: .25rem .5rem; } td:not(.n) { white-space: normal; }
  .wrap { width: 100%; font-size: .82rem; }
  .wrap th, .wrap td { overflow-wrap: anywhere; min-width: 4.4rem; }
  .wrap th[scope=row] { min-width: 9.2rem; } .wrap td.words { min-width: 8rem; }
}
tr.first > * { font-weight: 700; }
thead button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; margin: 0; cursor: pointer; text-align: inherit; }
thead button.short { white-space: nowrap; }
thead button::after { content: "\\00a0\\2195"; color: var(--dim); font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\00a0\\25B2"; color: inherit; }
th[aria-sort=descending] button::after { content: "\\00a0\\25BC"; color: inherit; }
button:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--note);
  outline-offset: 2px; }
details { margin: .5rem 0; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; background: var(--card); padding: .6rem .9rem; border-radius: .3rem; }
"""

# Buttons in the headings: a click or the Enter key sorts; empty cells stay last.
SCRIPT = """
'use strict';
const value = (row, index) => {
  const cell = row.cells[index];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = text === '' ? NaN : Number(text);
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) => {
  if (typeof a === typeof b) return typeof a === 'number' ? a - b : a.localeCompare(b);
  return typeof a === 'number' ? -1 : 1;
};
const empty = (v) => v === '' || v === '–';
for (const button of document.querySelectorAll('thead button')) {
  button.addEventListener('click', () => {
    const head = button.closest('th'), body = button.closest('table').tBodies[0];
    const up = head.getAttribute('aria-sort') !== 'ascending';
    for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => empty(a) - empty(b) || (up ? compare(a, b) : compare(b, a)));
    for (const [, row] of rows) body.append(row);
  });
}
"""
