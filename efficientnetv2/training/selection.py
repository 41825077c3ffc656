"""Keeps the best weights by a chosen score, and says when there is nothing more to wait for."""

import json
import math
import os
from collections.abc import Callable, Iterable

from hparams import Config, UserError, write_whole

BEST_FOLDER, BEST_FILE = "best", "best.json"
# What an evaluation measures that `eval.best_metric` may name.
SINGLE_LABEL = ("loss", "top1", "top5")
MULTI_LABEL = ("loss", "hit_at_1", "hit_at_5", "global_ap")


class Selection:
    """The best evaluation so far, by `eval.best_metric`: the least loss, the largest of others.

    Of equal ones the earlier is better, and a score that is no number is better than none of them.
    Where no metric is chosen nothing is kept and nothing ends.
    Raises: UserError if the metric is none of those that the data's evaluation gives.
    """

    def __init__(self, config: Config, model_dir: str):
        self.metric, self.patience = config.eval.best_metric, config.eval.patience
        self.directory = os.path.join(model_dir, BEST_FOLDER)
        self.step: int | None = None
        self.value: float | None = None
        self.waited = 0  # Evaluations since the best one.
        if self.metric is not None:
            _check_metric(self.metric, MULTI_LABEL if config.data.multiclass else SINGLE_LABEL)

    @property
    def is_over(self) -> bool:
        """Whether `eval.patience` evaluations have passed without a better one."""
        return self.patience is not None and self.waited >= self.patience

    def evaluated(self, step: int, scores: dict, save_best: Callable[[str], None]) -> bool:
        """Takes note of an evaluation; returns whether training is to stop.

        `save_best(directory)` writes the weights that were evaluated; it is called if they are the
        best so far, and `best.json` beside them, {"step", "metric", "value"}, is written after.
        Raises: UserError if the scores lack the metric, or `best.json` cannot be written.
        """
        if self.metric is None:
            return False
        if self._take(step, scores):
            save_best(self.directory)
            best = {"step": self.step, "metric": self.metric, "value": self.value}
            write_whole(os.path.join(self.directory, BEST_FILE), json.dumps(best))
        return self.is_over

    def state(self) -> dict:
        """All that has to be known to go on, for JSON, which keeps each bit of a float."""
        return {"step": self.step, "value": self.value, "waited": self.waited}

    def restore(self, state: dict) -> None:
        """Goes on from what `state` gave."""
        self.step, self.value, self.waited = state["step"], state["value"], state["waited"]

    def replay(self, evaluations: Iterable[dict]) -> "Selection":
        """Takes note of the records of past evaluations, without writing; returns itself."""
        for record in evaluations:
            if self.metric is not None:
                self._take(record["step"], record)
        return self

    def _take(self, step: int, scores: dict) -> bool:
        _check_metric(self.metric, scores)
        value = float(scores[self.metric])
        sign = -1 if self.metric == "loss" else 1
        best = -math.inf if self.value is None else sign * self.value
        if sign * value > best:
            self.step, self.value, self.waited = step, value, 0
            return True
        self.waited += 1
        return False


def read_best(model_dir: str) -> dict | None:
    """Returns the content of `best.json`: step, metric and value; None if there is none."""
    path = os.path.join(model_dir, BEST_FOLDER, BEST_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _check_metric(metric: str, known: Iterable[str]) -> None:
    if metric in known:
        return
    measured = [name for name in (*SINGLE_LABEL, *MULTI_LABEL[1:]) if name in known]
    raise UserError(
        f"eval.best_metric={metric} is not measured on this data; choose {', '.join(measured)}"
    )
