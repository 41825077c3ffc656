"""Pieces of HTML; all text that is not ours is escaped here."""

import base64
import dataclasses
import html
from collections.abc import Sequence

from efficientnetv2.report.style import CSS


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: what its link goes to, its heading, and its HTML."""

    anchor: str
    title: str
    body: str


@dataclasses.dataclass(frozen=True)
class Bar:
    """A cell that shows a share in [0, 1] as a bar."""

    share: float


def text(value) -> str:
    """Returns any value as escaped text."""
    return html.escape(str(value))


def paragraph(content: str, kind: str = "") -> str:
    """Returns text as a paragraph."""
    return f'<p class="{kind}">{text(content)}</p>' if kind else f"<p>{text(content)}</p>"


def table(heads: Sequence[str], rows: Sequence[Sequence], numeric: Sequence[int] = ()) -> str:
    """Returns a table; the columns `numeric` are set to the right. Cells: anything, or a `Bar`."""

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
    """Returns a picture that is part of the page; `caption` is HTML."""
    data = base64.b64encode(png).decode()
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    source = f"data:image/png;base64,{data}"
    return f'<figure><img alt="{text(alternative)}" src="{source}">{below}</figure>'


def grid(kind: str, pieces: Sequence[str]) -> str:
    """Returns pieces side by side, as many as fit."""
    return f'<div class="{kind}">\n' + "\n".join(pieces) + "\n</div>"


def folded(summary: str, content: str) -> str:
    """Returns what is seen only when asked for."""
    return f"<details><summary>{text(summary)}</summary>\n{content}\n</details>"


def numbers(pairs: Sequence[tuple[str, str]]) -> str:
    """Returns (value, what it is) as large figures."""
    cards = [f'<div class="number"><b>{text(b)}</b><span>{text(a)}</span></div>' for b, a in pairs]
    return grid("numbers", cards)


def page(title: str, subtitle: str, top: str, sections: Sequence[Section], foot: str) -> str:
    """Returns the whole document; it refers to nothing outside of itself."""
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
