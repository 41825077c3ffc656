"""Figures, colors and the confusion matrix plot, shared by all plots."""

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INK, FAINT, GRID = "#1f2430", "#6b7280", "#e5e7eb"
LINES = ("#2563eb", "#ea580c", "#16a34a", "#9333ea")
SHADES = ("#eef2ff", "#fff7ed")  # Of stages, alternating.
DPI = 160
MOST_NAMED = 40  # Up to this many classes, the confusion matrix shows class names.
_MOST_NUMBERED = 20  # Up to this many, also the number of examples in each cell.


def new_figure(width: float = 5.6, height: float = 3.2) -> Figure:
    """Returns an empty figure; width and height are in inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def plain_axes(figure: Figure, title: str, room: float = 6):
    """Returns the figure's only axes; `room` is the space below the title in points."""
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=room, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", labelsize=8, colors=FAINT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def figure_png(figure: Figure) -> bytes:
    """Returns the figure as a PNG; characters missing from the font are drawn as boxes."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    return picture.getvalue()


def figure_pixels(figure: Figure) -> np.ndarray:
    """Returns the figure as uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(figure_png(figure))).convert("RGB"))


def image_png(image: np.ndarray) -> bytes:
    """Returns uint8 [H, W, 3] as a PNG."""
    picture = io.BytesIO()
    Image.fromarray(image).save(picture, format="PNG", optimize=True)
    return picture.getvalue()


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Returns a heat map of the confusion matrix, with each row normalized to shares.

    The axes show class names for up to `MOST_NAMED` classes, class numbers for more.
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
    """Returns the name, truncated with "…" if it is longer than `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
