"""Results of a study: best trials, Pareto front, parameter importance, pictures."""

import dataclasses
import itertools
import os
import re
import warnings
from collections.abc import Sequence

from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.plots import FAINT, INK, LINES, new_figure, plain_axes
from efficientnetv2.hparams.spec import ModelSpec, save_spec
from efficientnetv2.search.cost_model import (
    DEVICES,
    Measurement,
    held_out,
    predicted_step,
    rank_correlation,
)
from efficientnetv2.search.space import SearchSpace, choices, spec_at
from efficientnetv2.search.study import FIGURES, SearchStudy, ending

BEST = 5  # Trials by reward; those on the front are listed in addition.
FOLDER = "best"
HEADS = ("trial", "reward", "top-1", "step (ms)", "to baseline", "parameters (M)", "stages")
_LEAST_FOR_IMPORTANCE = 8  # Trials; with fewer, importances would be random.
_TOP = 0.25  # The share of the trials that count as good.
_SMALLEST, _LARGEST = 14.0, 160.0  # Areas of the markers, in square points.


@dataclasses.dataclass(frozen=True)
class Found:
    """A trial that has ended. Figures are None if it ended before they were known.

    `ending` describes how it ended; `relative_step` is in units of the baseline's step.
    """

    number: int
    first: int
    state: str  # "complete", "pruned" or "fail".
    values: dict
    ending: str
    reward: float | None = None
    same_as: int | None = None
    accuracy: float | None = None
    step_seconds: float | None = None
    parameters: int | None = None
    baseline_step_seconds: float | None = None
    baseline_parameters: int | None = None
    image_size: int | None = None
    batch_size: int | None = None

    @property
    def relative_step(self) -> float:
        """The step time relative to the baseline's."""
        return self.step_seconds / self.baseline_step_seconds


def found_in(study: SearchStudy) -> list[Found]:
    """Returns the trials that have ended, by number."""
    ended = [trial for trial in study.trials() if trial.state.is_finished()]
    return [
        Found(
            number=trial.number,
            first=trial.user_attrs.get("first", trial.number),
            state=trial.state.name.lower(),
            values=trial.params,
            ending=ending(trial),
            reward=trial.value if trial.state == TrialState.COMPLETE else None,
            same_as=trial.user_attrs.get("same_as"),
            **{name: trial.user_attrs.get(name) for name in FIGURES},
        )
        for trial in ended
    ]


def ranked(found: Sequence[Found]) -> list[Found]:
    """Returns the complete trials that trained themselves, the best reward first."""
    own = [one for one in found if one.reward is not None and one.same_as is None]
    return sorted(own, key=lambda one: -one.reward)


def pareto(found: Sequence[Found]) -> list[Found]:
    """Returns the Pareto front of accuracy, step time and parameters, in the order of `ranked`.

    A trial is not on it if another one is nowhere worse and somewhere better.
    """
    own = ranked(found)
    costs = {one.number: (-one.accuracy, one.relative_step, one.parameters) for one in own}

    def beaten(one: Found) -> bool:
        mine = costs[one.number]
        return any(
            theirs != mine and all(a <= b for a, b in zip(theirs, mine))
            for theirs in costs.values()
        )

    return [one for one in own if not beaten(one)]


def importance(study: SearchStudy, found: Sequence[Found]) -> dict[str, float]:
    """Returns the importance of each parameter as a share, the largest first.

    {} for too few trials. Source: PED-ANOVA (arXiv 2304.10255), the best quarter against all.
    """
    if len(ranked(found)) < _LEAST_FOR_IMPORTANCE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # If all rewards are equal, so are the importances.
        evaluator = PedAnovaImportanceEvaluator(target_quantile=_TOP)
        return get_param_importances(study.study, evaluator=evaluator)


def shares(space: SearchSpace, found: Sequence[Found]) -> list[tuple[str, str, float, float]]:
    """Returns (parameter, choice, its share in the best quarter, its share in all) of each choice.

    Shares are of the trials that trained themselves and have the parameter, including pruned ones;
    [] for too few trials.
    """
    best = ranked(found)
    if len(best) < _LEAST_FOR_IMPORTANCE:
        return []
    every = [one for one in found if one.same_as is None and one.state != "fail"]
    top = best[: max(1, round(_TOP * len(every)))]
    rows = []
    for name, options in choices(space).items():
        for choice in options:
            pair = [_share(some, name, choice) for some in (top, every)]
            rows.append((name, str(choice), *pair))
    return rows


def _share(some: Sequence[Found], name: str, choice) -> float:
    having = [one for one in some if name in one.values]
    return sum(one.values[name] == choice for one in having) / max(1, len(having))


def cost_models(space: SearchSpace, found: Sequence[Found]) -> dict[str, float]:
    """Returns rank correlations of predicted with measured step times of this study, by name.

    Names are the devices of `cost_model`, and "fitted": each trial is predicted by a fit to the
    others. {} for too few trials, or if all steps take the same time.
    """
    own = [one for one in found if one.same_as is None and one.step_seconds is not None]
    if len(own) < _LEAST_FOR_IMPORTANCE:
        return {}
    measured = [
        Measurement(spec_of(space, one), one.image_size, one.batch_size, one.step_seconds)
        for one in own
    ]
    seconds = [one.seconds for one in measured]
    predictions = {
        name: [predicted_step(m.spec, m.image_size, m.batch_size, device) for m in measured]
        for name, device in DEVICES.items()
    }
    predictions["fitted"] = held_out(measured)
    correlations = {}
    for name, predicted in predictions.items():
        if len(set(predicted)) > 1 and len(set(seconds)) > 1:
            correlations[name] = rank_correlation(predicted, seconds)
    return correlations


def spec_of(space: SearchSpace, one: Found) -> ModelSpec:
    """Returns the network of a trial."""
    return spec_at(space, one.values, f"{space.name}-{one.first:04d}")


def chosen(found: Sequence[Found]) -> list[Found]:
    """Returns the trials whose networks are saved: the best rewards, and the rest of the front."""
    best = ranked(found)[:BEST]
    return best + [one for one in pareto(found) if one not in best]


def save_best(space: SearchSpace, found: Sequence[Found], directory: str) -> dict[int, str]:
    """Writes the networks of the chosen trials to `directory`/best; returns {number: file}.

    Raises: UserError if they cannot be written.
    """
    folder = os.path.join(directory, FOLDER)
    try:
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):  # Files of earlier results.
            if re.fullmatch(rf"{re.escape(space.name)}-\d{{4,}}\.(json|yaml)", name):
                os.remove(os.path.join(folder, name))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    files = {}
    for one in chosen(found):
        spec = spec_of(space, one)
        files[one.number] = os.path.join(folder, f"{spec.name}.json")
        save_spec(spec, files[one.number])
    return files


def stages_of(spec: ModelSpec) -> str:
    """Formats stages as "F2k3e4": Fused-MBConv (M: MBConv), 2 layers, kernel 3, expansion 4."""
    return " ".join(
        f"{'F' if row.kind == 'fused' else 'M'}{row.repeats}k{row.kernel}e{row.expand}"
        for row in spec.blocks
    )


def table(space: SearchSpace, rows: Sequence[Found]) -> str:
    """Formats trials as an aligned table."""
    lines = [HEADS, *(cells(space, one) for one in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths)) for line in lines)


def cells(space: SearchSpace, one: Found) -> tuple[str, ...]:
    """Returns the figures of a complete trial and its network, as `table` shows them."""
    return (
        str(one.number),
        f"{one.reward:.4f}",
        f"{one.accuracy:.4f}",
        f"{1000 * one.step_seconds:.1f}",
        f"{one.relative_step:.2f}",
        f"{one.parameters / 1e6:.3f}",
        stages_of(spec_of(space, one)),
    )


def count_states(found: Sequence[Found]) -> dict[str, int]:
    """Counts trials by their outcome; "same" are those whose values had been tried before."""
    counts = {"complete": 0, "pruned": 0, "fail": 0, "same": 0}
    for one in found:
        counts["same" if one.same_as is not None else one.state] += 1
    return counts


def draw_pareto(found: Sequence[Found]) -> Figure | None:
    """Plots accuracy over step time, marker area by parameters; None without a complete trial.

    Trials on the Pareto front are colored and numbered; pruned trials are crosses at the accuracy
    that they had reached.
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
    """Plots the reward of each trial, and the best so far; None without a complete trial."""
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
