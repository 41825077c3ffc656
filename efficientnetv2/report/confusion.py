"""What is taken for what: the matrix as a picture, accuracies, and the pairs most confused."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from efficientnetv2.report.figures import FAINT, INK, new_figure

MOST_NAMED = 40  # Classes, up to which the matrix has their names.
_MOST_NUMBERED = 20  # And the number of examples in each cell.


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """Examples of the class `label` that were taken for `predicted`; `share` of the label's."""

    label: int
    predicted: int
    count: int
    share: float


def confused_pairs(confusion: np.ndarray, most: int) -> tuple[ConfusedPair, ...]:
    """Returns up to `most` pairs of classes, those with the most examples first."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    labels, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[labels, predicted], kind="stable")[:most]
    counts = confusion.sum(axis=1)
    return tuple(
        ConfusedPair(int(i), int(j), int(wrong[i, j]), float(wrong[i, j] / counts[i]))
        for i, j in zip(labels[order], predicted[order])
    )


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Returns the matrix as a heat map of the shares of each row.

    With names up to `MOST_NAMED` classes, else with their numbers on the axes.
    """
    classes = len(confusion)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.34 * classes, 4.0, 10.0))
    figure = new_figure(side + 1.6, side + 0.6)
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, shrink=0.6)
    bar.set_label("share of the class", fontsize=8, color=FAINT)
    bar.ax.tick_params(labelsize=7, colors=FAINT)
    bar.outline.set_visible(False)
    axes.set_xlabel("taken for", fontsize=9, color=FAINT)
    axes.set_ylabel("class", fontsize=9, color=FAINT)
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=7, colors=INK, length=0)
    if classes <= MOST_NAMED:
        names = [shortened(name) for name in class_names]
        axes.set_xticks(range(classes), names, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), names, parse_math=False)
    if classes <= _MOST_NUMBERED:
        for i, j in zip(*np.nonzero(confusion)):
            colour = "white" if shares[i, j] > 0.5 else INK
            axes.text(
                j, i, int(confusion[i, j]), ha="center", va="center", fontsize=7, color=colour
            )
    return figure


def shortened(name: str, most: int = 24) -> str:
    """Returns the name, cut off with "…" where it is long."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
