"""HTML pages: style sheet, elements, and escaping of all inserted text."""

import base64
import dataclasses
import html
from collections.abc import Sequence

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


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page: the anchor that links refer to, its heading, and its HTML."""

    anchor: str
    title: str
    body: str


@dataclasses.dataclass(frozen=True)
class Bar:
    """A table cell that shows a share in [0, 1] as a bar."""

    share: float


def text(value) -> str:
    """Returns any value as escaped text."""
    return html.escape(str(value))


def paragraph(content: str, kind: str = "") -> str:
    """Returns text as a paragraph."""
    return f'<p class="{kind}">{text(content)}</p>' if kind else f"<p>{text(content)}</p>"


def html_table(heads: Sequence[str], rows: Sequence[Sequence], numeric: Sequence[int] = ()) -> str:
    """Returns a table; the `numeric` columns are right-aligned. A cell is any value, or a `Bar`."""

    def cell(tag: str, column: int, value) -> str:
        if isinstance(value, Bar):
            return f'<td class="bar"><span style="width:{100 * value.share:.2f}%"></span></td>'
        kind = ' class="right"' if column in numeric else ""
        return f"<{tag}{kind}>{text(value)}</{tag}>"

    def row(tag: str, values: Sequence) -> str:
        cells = "".join(cell(tag, column, value) for column, value in enumerate(values))
        return f"<tr>{cells}</tr>"

    body = "\n".join(row("td", values) for values in rows)
    head = f"<thead>{row('th', heads)}</thead>" if any(heads) else ""
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def picture(png: bytes, alternative: str, caption: str = "") -> str:
    """Returns a picture embedded in the page; `caption` is HTML."""
    data = base64.b64encode(png).decode()
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    source = f"data:image/png;base64,{data}"
    return f'<figure><img alt="{text(alternative)}" src="{source}">{below}</figure>'


def grid(kind: str, pieces: Sequence[str]) -> str:
    """Returns pieces side by side, as many as fit."""
    return f'<div class="{kind}">\n' + "\n".join(pieces) + "\n</div>"


def folded(summary: str, content: str) -> str:
    """Returns content that is hidden until it is expanded."""
    return f"<details><summary>{text(summary)}</summary>\n{content}\n</details>"


def numbers(pairs: Sequence[tuple[str, str]]) -> str:
    """Returns (value, description) pairs as large figures."""
    cards = [f'<div class="number"><b>{text(b)}</b><span>{text(a)}</span></div>' for b, a in pairs]
    return grid("numbers", cards)


def page(title: str, subtitle: str, top: str, sections: Sequence[Section], foot: str) -> str:
    """Returns the whole document, without references to other files."""
    links = "\n".join(f'<a href="#{s.anchor}">{text(s.title)}</a>' for s in sections)
    bodies = "\n".join(
        f'<section id="{s.anchor}">\n<h2>{text(s.title)}</h2>\n{s.body}\n</section>'
        for s in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header><div>
<h1>{text(title)}</h1>
<p class="faint">{text(subtitle)}</p>
<nav>
{links}
</nav>
</div></header>
<main>
{top}
{bodies}
</main>
<footer class="faint">{text(foot)}</footer>
</body>
</html>
"""
