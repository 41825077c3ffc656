"""Pictures of a search: accuracy against step time, and the reward over the trials."""

import itertools
from collections.abc import Sequence

from matplotlib.figure import Figure

from efficientnetv2.report.figures import FAINT, INK, LINES, new_figure, plain_axes
from search.results import Found, pareto, ranked

_SMALLEST, _LARGEST = 14.0, 160.0  # Areas of the marks, in square points.


def draw_pareto(found: Sequence[Found]) -> Figure | None:
    """Accuracy over the step's time, marks as large as the networks; None without a complete trial.

    Those on the front, where no other is as accurate, as fast and as small, are coloured and
    numbered; those that were pruned, with the accuracy they had reached, are crosses.
    """
    complete, front = ranked(found), pareto(found)
    if not complete:
        return None
    one_baseline = len({one.baseline_step_seconds for one in complete}) == 1
    figure = new_figure(7.2, 4.6)
    axes = plain_axes(figure, "Accuracy, step time and size")
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)

    def place(one: Found) -> tuple[float, float]:
        step = 1000 * one.step_seconds if one_baseline else one.relative_step
        return step, one.accuracy

    most = max(one.parameters for one in complete)
    pruned = [one for one in found if one.state == "pruned" and one.accuracy is not None]
    if pruned:
        points = zip(*map(place, pruned))
        axes.scatter(*points, marker="x", s=16, color=FAINT, linewidth=0.8, label="pruned")
    others = [one for one in complete if one not in front]
    for some, colour, label in ((others, FAINT, "complete"), (front, LINES[0], "Pareto front")):
        if some:
            areas = [_SMALLEST + _LARGEST * one.parameters / most for one in some]
            points = zip(*map(place, some))
            axes.scatter(*points, s=areas, color=colour, alpha=0.55, linewidth=0, label=label)
    for one in front:
        axes.annotate(
            str(one.number),
            place(one),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=7,
            color=INK,
        )
    unit = "ms" if one_baseline else "relative to the baseline"
    axes.set_xlabel(f"training step ({unit}); area: parameters", fontsize=8, color=FAINT)
    axes.set_ylabel("top-1", fontsize=8, color=FAINT)
    legend = axes.legend(fontsize=8, frameon=False, loc="best")
    for handle in legend.legend_handles:
        handle.set_sizes([24])
    return figure


def draw_progress(found: Sequence[Found]) -> Figure | None:
    """The reward of each trial, and the best so far; None without a complete trial."""
    complete = [one for one in found if one.reward is not None]
    if not complete:
        return None
    figure = new_figure(7.2, 3.0)
    axes = plain_axes(figure, "Reward")
    numbers, rewards = zip(*[(one.number, one.reward) for one in complete])
    axes.scatter(numbers, rewards, s=14, color=LINES[0], linewidth=0, label="trial")
    best = list(itertools.accumulate(rewards, max))
    axes.step(numbers, best, where="post", color=LINES[1], linewidth=1.5, label="best so far")
    axes.set_xlabel("trial", fontsize=8, color=FAINT)
    axes.legend(fontsize=8, frameon=False, loc="best")
    return figure
