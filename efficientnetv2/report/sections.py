"""The parts of the page that are about what was learnt: classes, confusion, errors."""

from collections.abc import Sequence

import numpy as np

from efficientnetv2.report.confusion import confused_pairs
from efficientnetv2.report.findings import Findings
from efficientnetv2.report.markup import (
    Bar,
    Section,
    folded,
    grid,
    paragraph,
    picture,
    table,
    text,
)

MOST_PAIRS = 20
_SHOWN, _MOST_LISTED = 25, 1000  # Classes: at once, and behind a click.


def percent(share: float) -> str:
    """Returns a share as text: "83.2%"; "–" for no number."""
    return "–" if np.isnan(share) else f"{share:.1%}"


def class_section(findings: Findings, class_names: Sequence[str], multi_label: bool) -> Section:
    """The score of each class, the worst first."""
    score = "average precision" if multi_label else "accuracy"
    rows = class_rows(findings, class_names)
    heads, numeric = ("class", "", score, "images"), (2, 3)
    shown = [
        (name, "" if np.isnan(value) else Bar(value), percent(value), f"{count:,}")
        for name, value, count in rows[:_MOST_LISTED]
    ]
    known = findings.class_scores[~np.isnan(findings.class_scores)]
    what = "its images that were classified right"
    if multi_label:
        what = "the mean precision down to each of its images, ordered by score"
    note = f"Of the {findings.split} split; of each class {what}. The worst first."
    if len(known):
        note += f" Mean of the classes: {percent(known.mean())}."
    body = paragraph(note, "faint") + table(heads, shown[:_SHOWN], numeric)
    if len(rows) > _SHOWN:
        summary = f"The other {len(rows) - _SHOWN:,} classes"
        if len(rows) > _MOST_LISTED:
            summary = f"The next {_MOST_LISTED - _SHOWN:,} of {len(rows):,} classes"
        body += folded(summary, table(heads, shown[_SHOWN:], numeric))
    return Section("classes", f"{score.capitalize()} per class", body)


def class_rows(findings: Findings, class_names: Sequence[str]) -> list[tuple[str, float, int]]:
    """Returns (name, score, images) of each class, the worst first, those without images last."""
    order = np.lexsort((-findings.class_counts, findings.class_scores))  # NaN is last.
    return [
        (class_names[k], float(findings.class_scores[k]), int(findings.class_counts[k]))
        for k in order
    ]


def confusion_section(findings: Findings, class_names: Sequence[str], heat_map: bytes) -> Section:
    """The matrix as a picture, and the pairs most confused."""
    pairs = confused_pairs(findings.confusion, MOST_PAIRS)
    rows = [
        (class_names[one.label], class_names[one.predicted], one.count, percent(one.share))
        for one in pairs
    ]
    note = "Each row is a class: the shares of its images by what they were taken for."
    body = paragraph(note, "faint")
    worst = "no errors"
    if pairs:
        worst = f"most often {rows[0][0]} was taken for {rows[0][1]}, {rows[0][2]} times"
    body += picture(heat_map, f"Confusion matrix of {len(class_names)} classes; {worst}.")
    if rows:
        heads = ("class", "taken for", "images", "of the class")
        body += "<h3>Most confused</h3>" + table(heads, rows, (2, 3))
    return Section("confusion", "Confusion matrix", body)


def error_section(
    findings: Findings, class_names: Sequence[str], strips: Sequence[bytes]
) -> Section:
    """The most confident errors as pictures."""
    if not strips:
        return Section("errors", "Worst errors", paragraph("There is no error to show."))
    note = (
        "The most confident errors. Beside each image, by Grad-CAM (arXiv 1610.02391), what "
        "speaks for the class that it was taken for, and what for its own."
    )
    figures = []
    for one, strip in zip(findings.mistakes, strips):
        true = ", ".join(class_names[label] for label in one.labels) or "none of the classes"
        predicted, name = class_names[one.predicted], one.name or f"example {one.position}"
        caption = (
            f"<b>{text(true)}</b>, taken for <b>{text(predicted)}</b> with a score of "
            f"{one.score:.3f}<br>{text(name)}"
        )
        alternative = f"{name}: {true}, taken for {predicted}, and where the evidence for it is."
        figures.append(picture(strip, alternative, caption))
    return Section("errors", "Worst errors", paragraph(note, "faint") + grid("errors", figures))
