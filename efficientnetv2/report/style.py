"""How the page looks: light, on any width of screen, and on paper."""

CSS = """
:root { --ink: #1f2430; --faint: #6b7280; --line: #e5e7eb; --accent: #2563eb; --paper: #ffffff; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main, header > div { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { background: var(--paper); border-bottom: 1px solid var(--line); padding: 28px 0 12px; }
h1 { margin: 0; font-size: 1.75rem; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 1.2rem; }
p { margin: 6px 0 12px; }
.faint, figcaption, caption { color: var(--faint); }
nav { margin-top: 14px; display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .92rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.numbers { display: grid; gap: 12px; margin: 20px 0;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.number, section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
.number { padding: 14px 16px; }
.number b { display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 650; }
.number span { color: var(--faint); font-size: .88rem; }
section { margin: 0 0 20px; padding: 20px; }
.charts { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.errors { display: grid; gap: 18px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; }
.errors img { width: 100%; border-radius: 6px; }
figcaption { font-size: .88rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: 5px 12px 5px 0; vertical-align: top; }
td { border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
th.right, td.right { text-align: right; white-space: nowrap; }
td.bar { width: 40%; min-width: 56px; vertical-align: middle; }
td.bar span { display: block; height: 11px; border-radius: 3px; background: var(--accent);
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
code { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: .9em; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--accent); }
.notice { border-left: 4px solid #f59e0b; padding: 8px 12px; background: #fffbeb; }
footer { max-width: 1120px; margin: 0 auto; padding: 0 20px 32px; font-size: .88rem; }
@media print {
  body { background: none; font-size: 10.5pt; }
  nav { display: none; }
  section, .number { border: 0; padding: 0 0 8px; }
  section { break-inside: auto; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td { padding-right: 6px; }
  .charts, .errors { grid-template-columns: 1fr 1fr; }
}
"""
