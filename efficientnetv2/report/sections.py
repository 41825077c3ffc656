"""Sections of the report: curves, stages, config, environment, classes, confusion, errors."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from efficientnetv2.common.text import duration
from efficientnetv2.hparams import Config, differing_keys
from efficientnetv2.report.evaluate import Findings
from efficientnetv2.report.history import History, Throughput
from efficientnetv2.report.html import (
    Bar,
    Section,
    folded,
    grid,
    html_table,
    paragraph,
    picture,
    text,
)
from efficientnetv2.report.plots import CURVES, confused_pairs

MOST_PAIRS = 20
_SHOWN, _MOST_LISTED = 25, 1000  # Classes: visible at first, and after expanding.


def percent(share: float) -> str:
    """Returns a share as text: "83.2%"; "–" for NaN."""
    return "–" if np.isnan(share) else f"{share:.1%}"


def class_section(findings: Findings, class_names: Sequence[str], multi_label: bool) -> Section:
    """Returns the section with the score of each class, the worst first."""
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
    body = paragraph(note, "faint") + html_table(heads, shown[:_SHOWN], numeric)
    if len(rows) > _SHOWN:
        summary = f"The other {len(rows) - _SHOWN:,} classes"
        if len(rows) > _MOST_LISTED:
            summary = f"The next {_MOST_LISTED - _SHOWN:,} of {len(rows):,} classes"
        body += folded(summary, html_table(heads, shown[_SHOWN:], numeric))
    return Section("classes", f"{score.capitalize()} per class", body)


def class_rows(findings: Findings, class_names: Sequence[str]) -> list[tuple[str, float, int]]:
    """Returns (name, score, images) of each class, the worst first, those without images last."""
    order = np.lexsort((-findings.class_counts, findings.class_scores))  # NaN is last.
    return [
        (class_names[k], float(findings.class_scores[k]), int(findings.class_counts[k]))
        for k in order
    ]


def confusion_section(findings: Findings, class_names: Sequence[str], heat_map: bytes) -> Section:
    """Returns the section with the confusion matrix as a picture, and the most confused pairs."""
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
        body += "<h3>Most confused</h3>" + html_table(heads, rows, (2, 3))
    return Section("confusion", "Confusion matrix", body)


def error_section(
    findings: Findings, class_names: Sequence[str], strips: Sequence[bytes]
) -> Section:
    """Returns the section with pictures of the most confident errors."""
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


def curve_section(history: History, charts: Mapping[str, bytes]) -> Section:
    """Returns the section with the available curves; `charts` are PNGs by the names of `CURVES`."""
    shown = [
        picture(charts[curve.name], f"{curve.title} from step 0 to step {history.step}.")
        for curve in CURVES
        if curve.name in charts
    ]
    if not shown:
        return Section("curves", "Curves", paragraph("Nothing has been logged yet."))
    note = (
        "Shaded: the stages, with image size, RandAugment magnitude (RA), Mixup and CutMix alpha, "
        "and dropout. A training point is the mean since the point before."
    )
    return Section("curves", "Curves", paragraph(note, "faint") + grid("charts", shown))


def stage_section(history: History, speeds: Sequence[Throughput], chart: bytes | None) -> Section:
    """Returns the section with the planned stages, their progress and their speed."""
    heads = ("stage", "steps", "done", "epochs", "size", "batch", "magnitude", "mixup", "cutmix")
    heads = (*heads, "dropout", "images/s", "Mpixel/s", "time")
    by_index = {speed.stage.index: speed for speed in speeds}
    rows = [_stage_row(stage, by_index.get(stage.index)) for stage in history.stages]
    if not any(stage.cutmix_alpha for stage in history.stages):
        unused = heads.index("cutmix")
        heads, *rows = (row[:unused] + row[unused + 1 :] for row in (heads, *rows))
    body = html_table(heads, rows, range(1, len(heads)))
    for stage in history.stages:
        if stage.variants:
            sizes = ", ".join(f"{variant.image_size} px" for variant in stage.variants)
            body += paragraph(f"Each step of stage {stage.index + 1} draws one of: {sizes}.")
    note = (
        "Speed is the median of the logged windows; time that of the images in them, without "
        "tracing, evaluations and checkpoints."
    )
    body += paragraph(note, "faint")
    if chart is not None:
        alternative = "Images per second of each stage; the numbers are in the table above."
        body += grid("charts", [picture(chart, alternative)])
    return Section("stages", "Stages and throughput", body)


def _stage_row(stage, speed: Throughput | None) -> tuple:
    timed = speed is not None and speed.images_per_second is not None
    return (
        stage.index + 1,
        f"{stage.first_step:,}–{stage.end_step:,}",
        f"{speed.steps_done / stage.steps:.0%}" if speed else "0%",
        f"{stage.epochs:.1f}",
        f"{stage.image_size} px",
        stage.batch_size,
        f"{stage.ram:.2f}",
        f"{stage.mixup_alpha:.3f}",
        f"{stage.cutmix_alpha:.3f}",
        f"{stage.dropout_rate:.3f}",
        f"{speed.images_per_second:,.1f}" if timed else "–",
        f"{speed.megapixels_per_second:,.2f}" if timed else "–",
        duration(speed.seconds) if timed else "–",
    )


def config_section(config: Config) -> Section:
    """Returns the section with the settings that differ from the defaults, and all settings."""
    settings, defaults = flat(config), flat(Config())
    rows = [(key, settings[key], defaults[key]) for key in differing_keys(config, Config())]
    body = paragraph("Settings that are not the default: of the presets, the data or the flags.")
    body += html_table(("setting", "value", "default"), rows)
    body += folded(
        f"All {len(settings)} settings", html_table(("setting", "value"), settings.items())
    )
    return Section("config", "Config", body)


def flat(config: Config) -> dict:
    """Returns the settings by dotted key."""

    def walk(section, prefix):
        for field in dataclasses.fields(section):
            value, key = getattr(section, field.name), f"{prefix}{field.name}"
            if dataclasses.is_dataclass(value):
                yield from walk(value, f"{key}.")
            else:
                yield key, value

    return dict(walk(config, ""))


def environment_section(
    trained: Sequence[Mapping[str, str]], present: Mapping[str, str]
) -> Section:
    """Returns the section with the environments of the training, if known, and of this report."""
    body = ""
    for number, environment in enumerate(trained, 1):
        title = "Trained with" + (f" ({number} of {len(trained)})" if len(trained) > 1 else "")
        body += f"<h3>{text(title)}</h3>" + html_table(("", ""), environment.items())
    body += "<h3>Evaluated, and this page made, with</h3>" + html_table(("", ""), present.items())
    return Section("environment", "Environment", body)
