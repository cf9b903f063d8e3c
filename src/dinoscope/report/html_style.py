"""How the page looks, on a screen by day and by night and on paper, and the one line that it runs."""

from __future__ import annotations

OPEN_FOR_PRINT = (
    "addEventListener('beforeprint',()=>document.querySelectorAll('details:not([open])')"
    ".forEach(d=>{d.open=true;d.dataset.folded=''}));"
    "addEventListener('afterprint',()=>document.querySelectorAll('details[data-folded]')"
    ".forEach(d=>{d.open=false;delete d.dataset.folded}))"
)
"""What is folded cannot be unfolded on paper; this opens it for print, and folds it again."""

STYLE = """
:root {
  --ground: #fff; --ink: #1c1c1c; --quiet: #5f6368; --line: #dadce0; --tint: #f5f6f7; --accent: #a84300;
  --good: #e6f4ea; --good-edge: #137333; --warn: #fef3e0; --warn-edge: #b45309; --note: #eef3fb; --note-edge: #2563a8;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #16181b; --ink: #e8eaed; --quiet: #a6abb2; --line: #3c4043; --tint: #212428; --accent: #ff9e5e;
    --good: #16291c; --good-edge: #5bb974; --warn: #33260f; --warn-edge: #f0a93b; --note: #172335; --note-edge: #7fb0ee;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 4rem; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
body {
  margin: 0 auto; padding: 0 1.25rem 3rem; max-width: 72rem; counter-reset: figure;
  background: var(--ground); color: var(--ink); font: 1rem/1.55 var(--sans); overflow-wrap: anywhere;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 2.2rem 0 0.4rem; letter-spacing: -0.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 0.4rem; padding-top: 0.9rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 0.5rem; }
p, ul, ol { margin: 0.6rem 0; }
p, li { max-width: 48rem; }
.lead { color: var(--quiet); }
header .lead { font-size: 1.08rem; max-width: none; }
nav { position: sticky; top: 0; z-index: 1; background: var(--ground); border-bottom: 1px solid var(--line); }
nav ol { display: flex; flex-wrap: wrap; gap: 0 1.2rem; list-style: none; margin: 0; padding: 0.5rem 0; }
nav a { display: inline-block; padding: 0.2rem 0; font-size: 0.92rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.notice {
  padding: 0.65rem 0.9rem; border-left: 4px solid var(--note-edge); border-radius: 3px;
  background: var(--note);
}
.notice.good { border-color: var(--good-edge); background: var(--good); }
.notice.warning { border-color: var(--warn-edge); background: var(--warn); }
figure { margin: 1.2rem 0; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 3px; }
.drawing { background: #fff; border-radius: 3px; max-width: 100%; }
.drawing svg { display: block; max-width: 100%; height: auto; }
.frame { overflow-x: auto; }
figcaption { margin-top: 0.45rem; max-width: 48rem; font-size: 0.9rem; line-height: 1.45; color: var(--quiet); }
.numbered { counter-increment: figure; }
.numbered > figcaption::before { content: "Figure " counter(figure) ". "; font-weight: 600; color: var(--ink); }
.grid {
  --most: 1000; --gap: 0.9rem; display: grid; gap: var(--gap);
  grid-template-columns: repeat(auto-fill, minmax(
    min(100%, max(var(--least), calc((100% - (var(--most) - 1) * var(--gap)) / var(--most)))), 1fr));
}
.grid figure { margin: 0; }
.grid img, .grid .drawing svg { width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1.4rem; list-style: none; margin: 0.5rem 0 0; padding: 0.4rem 0; }
.legend { background: #fff; color: #1c1c1c; font-size: 0.85rem; border-radius: 3px; }
.legend svg { margin: 0 0.5rem 0 0.4rem; vertical-align: middle; }
.grid figcaption { font-size: 0.82rem; margin-top: 0.25rem; }
.scroll { overflow-x: auto; margin: 1rem 0 0.5rem; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; padding-bottom: 0.4rem; font-weight: 600; }
th, td { padding: 0.35rem 1.1rem 0.35rem 0; border-bottom: 1px solid var(--line); text-align: left; }
tbody th, td { vertical-align: top; }
th[scope="row"] { font-weight: 400; min-width: 10rem; overflow-wrap: anywhere; }
th[scope="rowgroup"] { font-style: italic; font-weight: 400; color: var(--quiet); padding-top: 0.9rem; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
th.right, td.right { text-align: right; white-space: nowrap; }
td.short { white-space: nowrap; }
.notes { font-size: 0.85rem; color: var(--quiet); }
.notes p, .notes ol { margin: 0.3rem 0; }
.notes ol { padding-left: 1.4rem; }
dl { margin: 0.8rem 0; border-top: 1px solid var(--line); }
dl div {
  display: grid; grid-template-columns: minmax(8rem, 15rem) 1fr; gap: 0 1.2rem;
  padding: 0.32rem 0; border-bottom: 1px solid var(--line);
}
dl.dense { columns: 3 19rem; column-gap: 1.8rem; font-size: 0.82rem; border-top: 0; }
dl.dense div { grid-template-columns: 1.5fr 1fr; padding: 0.15rem 0; break-inside: avoid; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; }
pre {
  margin: 0.8rem 0; padding: 0.8rem 1rem; background: var(--tint); border: 1px solid var(--line); border-radius: 4px;
  font: 0.85rem/1.5 var(--mono); white-space: pre-wrap;
}
code { font-family: inherit; }
details { margin: 0.9rem 0; border: 1px solid var(--line); border-radius: 4px; padding: 0 0.9rem; }
summary { padding: 0.55rem 0; cursor: pointer; font-weight: 600; }
footer { margin-top: 3rem; padding-top: 0.8rem; border-top: 1px solid var(--line); }
footer { color: var(--quiet); font-size: 0.85rem; }
@media (max-width: 34rem) {
  body { padding: 0 0.9rem 2rem; }
  nav { position: static; }
  th[scope="row"] { position: sticky; left: 0; min-width: 9rem; background: var(--ground); }
  dl div { grid-template-columns: 1fr; }
}
@page { size: A4; margin: 15mm 14mm 17mm; }
@media print {
  :root {
    --ground: #fff; --ink: #000; --quiet: #444; --line: #bbb; --tint: #f5f6f7; --accent: #000; --good: #fff;
    --warn: #fff; --note: #fff; --good-edge: #137333; --warn-edge: #b45309; --note-edge: #2563a8;
  }
  html { font-size: 10pt; }
  body { max-width: none; padding: 0; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h1 { margin-top: 0; }
  h2, h3 { break-after: avoid; }
  h2 { margin-top: 1.6rem; }
  h2 + .lead, h3 + p, summary, p:has(+ pre) { break-after: avoid; }
  p, li { orphans: 3; widows: 3; max-width: none; }
  figcaption { max-width: none; }
  nav { display: none; }
  figure, figcaption, .lead, .notice, tr, dl div, pre { break-inside: avoid; }
  .gallery { break-inside: auto; }
  .gallery.together { break-inside: avoid; }
  .grid figure { break-inside: avoid; }
  figure img, .drawing svg { max-height: 235mm; width: auto; max-width: 100%; }
  figure img, .drawing { min-width: 0 !important; }
  .frame { overflow: visible; }
  details figure img { max-height: 108mm; }
  .grid img, .grid .drawing svg { width: 100%; }
  dl.dense { columns: 2; column-gap: 6mm; font-size: 7.5pt; line-height: 1.3; }
  th, td { padding-right: 2.5mm; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  thead { display: table-header-group; }
  details { border: 0; padding: 0; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
}
"""
