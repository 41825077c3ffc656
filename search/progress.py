"""A line for each trial: how it ended, the best so far, the time left."""

import time

from optuna.trial import FrozenTrial, TrialState

from search.budget import Budget
from search.study import SearchStudy, reason_of


class Progress:
    """Tells how a search gets on."""

    def __init__(self, budget: Budget, study: SearchStudy):
        self.budget, self.study = budget, study
        self._begun = time.monotonic()
        self._before = sum(trial.state.is_finished() for trial in study.trials())

    def tell(self, number: int) -> None:
        """Prints the line of a trial that has ended."""
        trials = self.study.trials()
        [trial] = [one for one in trials if one.number == number] or [None]
        if trial is None or not trial.state.is_finished():  # It goes on, here or elsewhere.
            return
        finished = [one for one in trials if one.state.is_finished()]
        total = f"/{self.budget.trials}" if self.budget.trials is not None else ""
        parts = [f"{len(finished)}{total}", f"trial {trial.number}", ending(trial)]
        complete = [one for one in finished if one.state == TrialState.COMPLETE]
        if complete:
            best = max(complete, key=lambda one: one.value)
            parts.append(f"best {best.value:.4f} (trial {best.number})")
        parts.append(f"left {_time(self._left(len(finished)))}")
        print("  ".join(parts), flush=True)

    def _left(self, finished: int) -> float:
        """Seconds until the budget is spent, at the pace since this worker began."""
        elapsed = time.monotonic() - self._begun
        if self.budget.seconds is not None:
            return max(0.0, self.budget.seconds - elapsed)
        here = max(1, finished - self._before)
        return max(0, self.budget.trials - finished) * elapsed / here


def ending(trial: FrozenTrial) -> str:
    """How a finished trial ended, with its figures."""
    known = trial.user_attrs
    if trial.state == TrialState.FAIL:
        return f"failed  {reason_of(trial)}"
    word = "reward" if trial.state == TrialState.COMPLETE else "pruned at reward"
    parts = [f"{word} {trial.value:.4f}"] if trial.value is not None else [word]
    if "accuracy" in known:
        parts.append(f"top-1 {known['accuracy']:.4f}")
    if "step_seconds" in known:
        parts.append(f"step {1000 * known['step_seconds']:.1f} ms")
        parts.append(f"{known['parameters'] / 1e6:.2f} M parameters")
    if "same_as" in known:
        parts.append(f"the same as trial {known['same_as']}")
    return "  ".join(parts)


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
