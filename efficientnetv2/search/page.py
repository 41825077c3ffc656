"""Result page of a search: `search.html` and its pictures."""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence

from efficientnetv2.common.files import atomic_write
from efficientnetv2.common.plots import figure_png
from efficientnetv2.report.html import (
    Bar,
    Section,
    folded,
    grid,
    html_table,
    numbers,
    page,
    paragraph,
    picture,
    text,
)
from efficientnetv2.search import results
from efficientnetv2.search.results import Found, draw_pareto, draw_progress
from efficientnetv2.search.space import SearchSpace, size

PAGE, FIGURE, PROGRESS, NUMBERS = "search.html", "pareto.png", "progress.png", "search.json"


@dataclasses.dataclass(frozen=True)
class Results:
    """The content of the page. `commands`: (trial, command that trains its network)."""

    name: str
    space: SearchSpace
    found: Sequence[Found]
    commands: Sequence[tuple[int, str]]
    importance: Mapping[str, float]
    shares: Sequence[tuple[str, str, float, float]]
    cost_models: Mapping[str, float]


def write_results(given: Results, directory: str) -> str:
    """Writes the page, its pictures and its numbers; returns the page's path.

    Raises: UserError if a file cannot be written.
    """
    figures = {FIGURE: draw_pareto(given.found), PROGRESS: draw_progress(given.found)}
    pictures = {name: figure_png(one) for name, one in figures.items() if one is not None}
    for name, png in pictures.items():
        atomic_write(os.path.join(directory, name), png)
    content = json.dumps(result_numbers(given), indent=1)
    atomic_write(os.path.join(directory, NUMBERS), content)
    path = os.path.join(directory, PAGE)
    atomic_write(path, render(given, pictures))
    return path


def result_numbers(given: Results) -> dict:
    """Returns the numbers of the page, for JSON."""
    return {
        "space": given.space.name,
        "points": size(given.space),
        "trials": [dataclasses.asdict(one) for one in given.found],
        "best": [one.number for one in results.ranked(given.found)[: results.BEST]],
        "pareto": [one.number for one in results.pareto(given.found)],
        "importance": dict(given.importance),
        "shares": given.shares,
        "cost_models": dict(given.cost_models),
        "commands": dict(given.commands),
    }


def render(given: Results, pictures: Mapping[str, bytes]) -> str:
    """Returns the page as HTML."""
    best = results.ranked(given.found)
    counts = results.count_states(given.found)
    top = [(str(sum(counts.values())), f"trials of {size(given.space):,} networks")]
    if best:
        top.append((f"{best[0].reward:.4f}", f"best reward, trial {best[0].number}"))
        top.append((f"{best[0].accuracy:.2%}", "its top-1 accuracy"))
        top.append((f"{1000 * best[0].step_seconds:.1f} ms", "its training step"))
        top.append((f"{best[0].parameters / 1e6:.2f} M", "its parameters"))
    sections = [*_found_sections(given, pictures), _trials_section(given)]
    subtitle = f"search space {given.space.name}; " + ", ".join(
        f"{count} {name}" for name, count in counts.items() if count
    )
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    notice = "" if best else paragraph("No trial is complete yet.", "notice")
    return page(given.name, subtitle, numbers(top) + notice, sections, f"Made on {now}.")


def _found_sections(given: Results, pictures: Mapping[str, bytes]) -> list[Section]:
    best, front = results.ranked(given.found)[: results.BEST], results.pareto(given.found)
    if not best:
        return []
    commands = dict(given.commands)
    trained = "".join(
        folded(f"train the network of trial {number}", f"<pre><code>{text(line)}</code></pre>")
        for number, line in commands.items()
    )
    shown = picture(pictures[FIGURE], "accuracy over the time of a step", "")
    explained = (
        "On the front no other trial is at once as accurate, as fast and as small. A stage such as "
        "F2k3e4 is Fused-MBConv (M: MBConv), 2 layers, kernel 3, expansion 4."
    )
    sections = [
        Section("best", "Best networks", _figures_table(given.space, best) + trained),
        Section(
            "front",
            "Pareto front",
            paragraph(explained) + shown + _figures_table(given.space, front),
        ),
        Section("progress", "Progress", picture(pictures[PROGRESS], "reward of each trial", "")),
    ]
    if given.importance:
        sections.append(_importance_section(given))
    if given.cost_models:
        rows = [(name, f"{value:.3f}") for name, value in given.cost_models.items()]
        explained = (
            "Rank correlation (Spearman) of the time that the analytic cost model gives a step "
            "with the time that was measured; fitted: each trial by a fit to the others."
        )
        body = paragraph(explained) + html_table(
            ("coefficients", "correlation"), rows, numeric=(1,)
        )
        sections.append(Section("cost", "Cost model", body))
    return sections


def _importance_section(given: Results) -> Section:
    """Returns the section with parameter importances and the choices of the best trials."""
    rows = [(name, f"{share:.3f}", Bar(share)) for name, share in given.importance.items()]
    shared = [
        (name, choice, f"{top:.0%}", f"{every:.0%}", Bar(top))
        for name, choice, top, every in given.shares
    ]
    heads = ("parameter", "choice", "of the best quarter", "of all", "")
    parts = [
        html_table(("parameter", "importance", ""), rows, numeric=(1,)),
        html_table(heads, shared, numeric=(2, 3)),
    ]
    explained = (
        "Importance by PED-ANOVA: how much the choices of the best quarter differ from all; of few "
        "trials it is rough. Beside it, how often each choice is among the best quarter."
    )
    return Section("importance", "What matters", paragraph(explained) + grid("charts", parts))


def _figures_table(space: SearchSpace, rows: Sequence[Found]) -> str:
    content = [results.cells(space, one) for one in rows]
    return html_table(results.HEADS, content, numeric=range(len(results.HEADS) - 1))


def _trials_section(given: Results) -> Section:
    """Returns the section with all trials; values are in the order of the parameters."""
    rows = [
        (one.number, one.ending, ", ".join(f"{k}={v}" for k, v in one.values.items()))
        for one in given.found
    ]
    body = folded(
        f"{len(rows)} trials", html_table(("trial", "ending", "values"), rows, numeric=(0,))
    )
    return Section("trials", "All trials", body)
