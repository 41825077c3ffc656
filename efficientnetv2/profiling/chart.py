"""A picture of where the cost of a network lies. The only module that imports matplotlib."""

import io
import os

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from efficientnetv2.profiling.profile import Part, Profile
from hparams import UserError

_COLOURS = {"params": "#4c78a8", "macs": "#f58518", "activations": "#54a24b"}
_TITLES = {"params": "parameters", "macs": "multiply-adds", "activations": "activations"}


def save_chart(profile: Profile, path: str) -> None:
    """Writes a PNG: for each part of the network its share of parameters, FLOPs and activations.

    The file is there whole or not at all.
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
    """Three digits and a unit, as in "21.6 M"."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * unit:  # Else it would round to 1000 of the next one.
            return f"{count / unit:.3g} {name}"
    return str(count)
