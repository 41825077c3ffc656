"""The best weights by a score, early stopping, and that both go on after a stop."""

import json
import math
import os

import numpy as np
import pytest
import tiny_run

from efficientnetv2 import load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable
from efficientnetv2.training.checkpoint import Selection, read_best, save_weights


class Run:
    """Feeds evaluations to a selection; remembers what was saved and where."""

    def __init__(self, model_dir, settings):
        self.selection = Selection(tiny_run.make_config(settings), str(model_dir))
        self.saved = []

    def feed(self, metric, values, first_step=1):
        ends = []
        for step, value in enumerate(values, first_step):

            def save(directory, step=step):
                os.makedirs(directory, exist_ok=True)
                self.saved.append((step, directory))

            ends.append(self.selection.evaluated(step, {metric: value, "examples": 3}, save))
        return ends


@pytest.mark.parametrize(
    "metric, values, best_steps",
    [
        ("top1", [0.5, 0.4, 0.5, 0.6, 0.6], [1, 4]),  # Of equal ones the earlier.
        ("loss", [3.0, 2.0, 2.5, 2.0, 1.0], [1, 2, 5]),
        ("loss", [math.nan, 9.0, math.nan, 8.0], [2, 4]),
        ("top5", [math.nan, 0.0], [2]),
        ("loss", [math.inf, 1.0], [2]),
    ],
)
def test_the_best_is_kept(tmp_path, metric, values, best_steps):
    run = Run(tmp_path, f"eval.best_metric={metric}")
    assert run.feed(metric, values) == [False] * len(values)
    folder = str(tmp_path / "best")
    assert run.saved == [(step, folder) for step in best_steps]
    last = best_steps[-1]
    expected = {"step": last, "metric": metric, "value": values[last - 1]}
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == expected
    assert read_best(str(tmp_path)) == expected
    assert os.listdir(folder) == ["best.json"]


def test_patience_counts_evaluations_without_a_better_one(tmp_path):
    run = Run(tmp_path, "eval.best_metric=top1,eval.patience=2")
    values = [0.1, 0.1, 0.2, 0.2, math.nan, 0.1]
    assert run.feed("top1", values) == [False, False, False, False, True, True]
    assert run.selection.is_over


def test_without_a_metric_nothing_is_kept_and_nothing_ends(tmp_path):
    run = Run(tmp_path, "")
    assert run.feed("top1", [0.1] * 9) == [False] * 9
    assert run.saved == []
    assert read_best(str(tmp_path)) is None


@pytest.mark.parametrize("stop", range(7))
def test_it_goes_on_from_its_state_bit_for_bit(tmp_path, stop):
    """Wherever it stops, through JSON; values that differ in the last bit only."""
    third = 1 / 3
    values = [0.1, third, np.nextafter(third, 0), third, np.nextafter(third, 1), 0.3, 0.3, 0.3]
    settings = "eval.best_metric=top1,eval.patience=3"
    whole = Run(tmp_path / "whole", settings)
    ends = whole.feed("top1", values)
    first, second = Run(tmp_path / "cut", settings), Run(tmp_path / "cut", settings)
    cut_ends = first.feed("top1", values[:stop])
    second.selection.restore(json.loads(json.dumps(first.selection.state())))
    cut_ends += second.feed("top1", values[stop:], stop + 1)
    assert cut_ends == ends
    assert second.selection.state() == whole.selection.state()
    assert [step for step, _ in first.saved + second.saved] == [s for s, _ in whole.saved]
    assert read_best(str(tmp_path / "cut")) == read_best(str(tmp_path / "whole"))


def test_records_of_the_past_can_be_replayed(tmp_path):
    settings = "eval.best_metric=top1,eval.patience=2"
    run = Run(tmp_path / "run", settings)
    run.feed("top1", [0.3, 0.2, 0.1])
    records = [{"step": i, "top1": value} for i, value in enumerate([0.3, 0.2, 0.1], 1)]
    replayed = Run(tmp_path / "other", settings).selection.replay(records)
    assert replayed.state() == run.selection.state()
    assert replayed.is_over
    assert not (tmp_path / "other").exists()
    assert not Run(tmp_path / "other", "").selection.replay(records).is_over


def test_a_metric_that_is_not_measured_is_named_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match=r"eval.best_metric=hit_at_1 .* choose loss, top1, top5$"):
        Run(tmp_path, "eval.best_metric=hit_at_1")
    several = "data.multiclass=true,eval.best_metric"
    with pytest.raises(UserError, match="choose loss, hit_at_1, hit_at_5, global_ap$"):
        Run(tmp_path, f"{several}=top1")
    run = Run(tmp_path, f"{several}=global_ap")
    with pytest.raises(UserError, match="global_ap is not measured on this data; choose loss$"):
        run.feed("loss", [1.0])


def test_a_best_that_cannot_be_written_is_an_error(tmp_path):
    selection = Selection(tiny_run.make_config("eval.best_metric=loss"), str(tmp_path))
    with pytest.raises(UserError, match="cannot write .*best.json: No such file"):
        selection.evaluated(1, {"loss": 1.0}, lambda directory: None)


def test_the_best_weights_load_from_its_folder(tmp_path):
    """A checkpoint in the format of a run, as `save_best` writes it."""
    selection = Selection(tiny_run.make_config("eval.best_metric=top1"), str(tmp_path))
    models = [tiny_run.make_model() for _ in range(2)]

    def save(directory):
        save_weights(directory, models[0], None, 7)

    selection.evaluated(7, {"top1": 0.5}, save)
    report = load_weights(models[1], str(tmp_path / "best"))
    assert (report.step, report.format) == (7, "run")
    for mine, theirs in zip(models[0].weights, models[1].weights):
        np.testing.assert_array_equal(tf_variable(mine), tf_variable(theirs))
