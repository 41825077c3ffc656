"""Plots: curves of a run, confusion matrix, and cost of a network per stage."""

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.plots import FAINT, LINES, SHADES, new_figure, plain_axes
from efficientnetv2.hparams import Stage
from efficientnetv2.network.profile import Part, Profile
from efficientnetv2.report.history import History, Throughput, series

_MOST_LABELS = 6  # Stages; the labels of more would overlap.
_LABEL_HEIGHT = 32  # Points, for three lines.
_COLOURS = {"params": "#4c78a8", "macs": "#f58518", "activations": "#54a24b"}
_TITLES = {"params": "parameters", "macs": "multiply-adds", "activations": "activations"}


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """Examples of class `label` that were predicted as `predicted`; `share` of the class."""

    label: int
    predicted: int
    count: int
    share: float


def confused_pairs(confusion: np.ndarray, most: int) -> tuple[ConfusedPair, ...]:
    """Returns up to `most` confused pairs of classes, those with the most examples first."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    labels, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[labels, predicted], kind="stable")[:most]
    counts = confusion.sum(axis=1)
    return tuple(
        ConfusedPair(int(i), int(j), int(wrong[i, j]), float(wrong[i, j] / counts[i]))
        for i, j in zip(labels[order], predicted[order])
    )


@dataclasses.dataclass(frozen=True)
class Curve:
    """A chart of values in the records; `keys`: {key of the records: its name in the legend}."""

    name: str
    title: str
    keys: dict[str, str]
    kind: str = "train"
    logarithmic: bool = False


CURVES = (
    Curve("loss", "Training loss", {"loss": "loss"}),
    Curve("accuracy", "Training accuracy (share of images)", {"accuracy": "accuracy"}),
    Curve("learning_rate", "Learning rate", {"learning_rate": "learning rate"}),
    Curve("gradient_norm", "Gradient norm", {"gradient_norm": "norm"}, logarithmic=True),
    Curve("evaluation_loss", "Evaluation loss", {"loss": "loss"}, "eval"),
    Curve(
        "evaluation_scores",
        "Evaluation scores (shares)",
        {
            "top1": "top-1",
            "top5": "top-5",
            "hit_at_1": "hit@1",
            "hit_at_5": "hit@5",
            "global_ap": "global AP",
        },
        "eval",
    ),
)


def draw_curve(history: History, curve: Curve) -> Figure | None:
    """Returns the chart; None if the run has no value for it."""
    records = history.train if curve.kind == "train" else history.evaluations
    lines = {name: series(records, key) for key, name in curve.keys.items()}
    lines = {name: line for name, line in lines.items() if line[0]}
    if not lines:
        return None
    figure = new_figure()
    axes = plain_axes(figure, curve.title, room=_LABEL_HEIGHT)
    mark_stages(axes, history)
    for colour, (name, (steps, values)) in zip(LINES, lines.items()):
        few = len(steps) < 40
        axes.plot(steps, values, color=colour, linewidth=1.5, marker="." if few else "", label=name)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)
    if curve.logarithmic and min(min(values) for _, values in lines.values()) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=8, color=FAINT)
    return figure


def mark_stages(axes, history: History) -> None:
    """Shades the stages that have begun, up to the current step, and labels their settings."""
    begun = history.begun_stages()
    axes.set_xlim(0, max(history.step, 1))
    for stage in begun:
        end = min(stage.end_step, history.step)
        axes.axvspan(stage.first_step, end, color=SHADES[stage.index % 2], zorder=0, linewidth=0)
        if stage.first_step:
            axes.axvline(stage.first_step, color=FAINT, linewidth=0.6, linestyle=":")
        wide = (end - stage.first_step) * _MOST_LABELS >= history.step
        axes.text(
            (stage.first_step + end) / 2,
            1.02,
            stage_label(stage) if wide else str(stage.index + 1),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=6.5,
            color=FAINT,
        )


def stage_label(stage: Stage) -> str:
    """Returns the image size, nonzero magnitudes and dropout rate of a stage, one line each."""
    sizes = sorted({variant.image_size for variant in stage.variants or (stage,)})
    size = f"{sizes[0]} px" if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]} px"
    strengths = (("RA", stage.ram), ("mixup", stage.mixup_alpha), ("cutmix", stage.cutmix_alpha))
    given = " ".join(f"{name} {value:.2g}" for name, value in strengths if value)
    return "\n".join(filter(None, (size, given, f"drop {stage.dropout_rate:.2g}")))


def draw_throughput(speeds: Sequence[Throughput]) -> Figure | None:
    """Returns a bar chart of the images/s of each timed stage; None if there is none."""
    timed = [speed for speed in speeds if speed.images_per_second]
    if not timed:
        return None
    figure = new_figure()
    axes = plain_axes(figure, "Images per second in training (median)")
    colours = [LINES[0]] * len(timed)
    bars = axes.bar(range(len(timed)), [one.images_per_second for one in timed], color=colours)
    axes.bar_label(bars, [f"{one.images_per_second:,.0f}" for one in timed], fontsize=8, padding=2)
    names = [f"{one.stage.index + 1}\n{stage_label(one.stage).splitlines()[0]}" for one in timed]
    axes.set_xticks(range(len(timed)), names)
    axes.margins(y=0.15)
    return figure


def save_chart(profile: Profile, path: str) -> None:
    """Writes a PNG: the share of parameters, FLOPs and activations of each part of the network.

    The file is written atomically.
    Raises: UserError if it cannot be written.
    """
    picture = io.BytesIO()
    FigureCanvasAgg(draw_profile(profile)).print_png(picture)
    try:
        with open(f"{path}.part", "wb") as file:
            file.write(picture.getvalue())
        os.replace(f"{path}.part", path)
    except OSError as error:
        raise UserError(f"cannot write the chart {path}: {error.strerror}") from error


def draw_profile(profile: Profile) -> Figure:
    """Returns the chart as a matplotlib figure, three panels of one bar per part."""
    figure = Figure(figsize=(11, 1.6 + 0.38 * len(profile.parts)), dpi=120, layout="constrained")
    figure.suptitle(
        f"{profile.model} at {profile.image_size} x {profile.image_size} pixels: "
        "cost of each part for one image"
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    panels = figure.subplots(1, len(_TITLES), sharey=True, sharex=True)
    largest = max(_draw_shares(panel, profile.parts, what) for panel, what in zip(panels, _TITLES))
    panels[0].set_xlim(0, 1.5 * largest)  # Leaves room for the longest bar's label.
    panels[0].set_xticks([])
    panels[0].set_yticks(range(len(profile.parts)), [part.name for part in profile.parts])
    panels[0].invert_yaxis()  # The image enters at the top.
    return figure


def _draw_shares(panel, parts: tuple[Part, ...], what: str) -> float:
    """Draws one bar per part and returns the largest share."""
    counts = [getattr(part, what) for part in parts]
    total = sum(counts)
    shares = [count / total for count in counts]
    bars = panel.barh(range(len(parts)), shares, color=_COLOURS[what])
    labels = [f"{_percent(share)}  ({_short(count)})" for share, count in zip(shares, counts)]
    panel.bar_label(bars, labels, padding=4, fontsize=9)
    panel.set_title(f"{_TITLES[what]}: {_short(total)}", fontsize=11)
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    return max(shares)


def _percent(share: float) -> str:
    return "< 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _short(count: int) -> str:
    """Formats a count with three digits and a unit, as in "21.6 M"."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * unit:  # Otherwise it would round to 1000 of the next unit.
            return f"{count / unit:.3g} {name}"
    return str(count)
