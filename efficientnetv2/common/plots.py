"""Figures and colors that all pictures share."""

import io
import warnings

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INK, FAINT, GRID = "#1f2430", "#6b7280", "#e5e7eb"
LINES = ("#2563eb", "#ea580c", "#16a34a", "#9333ea")
SHADES = ("#eef2ff", "#fff7ed")  # Of stages, in turn.
DPI = 160


def new_figure(width: float = 5.6, height: float = 3.2) -> Figure:
    """Returns an empty figure, in inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def plain_axes(figure: Figure, title: str, room: float = 6):
    """Returns the figure's only axes; `room` below the title, in points."""
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=room, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", labelsize=8, colors=FAINT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def figure_png(figure: Figure) -> bytes:
    """Returns the figure as a PNG; letters that the font lacks are boxes."""
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
