"""Curves show the records, on the stages of the plan."""

import numpy as np
import pytest
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.common.plots import figure_png
from efficientnetv2.report.history import History, throughputs
from efficientnetv2.report.plots import CURVES, draw_curve, draw_throughput, stage_label

STAGES = hparams.make_stages(tiny_run.make_config("data.mixup_alpha=0.2"))
BY_NAME = {curve.name: curve for curve in CURVES}


def run(last_step, stages=STAGES, **more):
    train = [
        {"kind": "train", "step": s, "loss": 3 / s, "images_per_second": 10.0 * s, **more}
        for s in range(1, last_step + 1)
    ]
    return History(stages, tuple(train), ({"step": 3, "loss": 2.0, "top1": 0.25, "top5": 0.5},))


def spans(axes):
    """Where the shades of the stages begin and end."""
    boxes = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    return [(round(box.x0, 6), round(box.x1, 6)) for box in boxes]


def curves(axes):
    return [line.get_data() for line in axes.lines if not line.get_label().startswith("_")]


def labels(axes):
    return [text.get_text() for text in axes.texts]


def test_the_line_is_that_of_the_records():
    [axes] = draw_curve(run(12), BY_NAME["loss"]).axes
    [(steps, losses)] = curves(axes)
    np.testing.assert_array_equal(steps, range(1, 13))
    np.testing.assert_allclose(losses, 3 / np.arange(1, 13))


def test_stages_are_shaded_from_their_first_to_their_end_step():
    [axes] = draw_curve(run(12), BY_NAME["loss"]).axes
    assert spans(axes) == [(stage.first_step, stage.end_step) for stage in STAGES]
    assert labels(axes) == [stage_label(stage) for stage in STAGES]
    assert labels(axes)[0] == "17 px\nRA 5\ndrop 0.1"
    assert labels(axes)[3] == "32 px\nRA 10 mixup 0.2\ndrop 0.2"
    assert axes.get_xlim() == (0, 12)


def test_a_run_killed_in_its_second_stage_shows_what_it_has():
    [axes] = draw_curve(run(5), BY_NAME["loss"]).axes
    assert spans(axes) == [(0, 3), (3, 5)]
    assert axes.get_xlim() == (0, 5)
    [(steps, _)] = curves(axes)
    assert list(steps) == [1, 2, 3, 4, 5]


def test_evaluations_have_a_line_for_each_score():
    [axes] = draw_curve(run(5), BY_NAME["evaluation_scores"]).axes
    named = {text.get_text() for text in axes.get_legend().get_texts()}
    assert named == {"top-1", "top-5"}
    assert [(list(steps), list(values)) for steps, values in curves(axes)] == [
        ([3], [0.25]),
        ([3], [0.5]),
    ]


def test_what_was_not_logged_is_left_out():
    assert draw_curve(run(5), BY_NAME["gradient_norm"]) is None
    assert draw_curve(History(STAGES, (), ()), BY_NAME["loss"]) is None
    assert draw_throughput(()) is None
    [axes] = draw_curve(run(5, gradient_norm=0.5), BY_NAME["gradient_norm"]).axes
    assert axes.get_yscale() == "log"
    [axes] = draw_curve(run(5, gradient_norm=0.0), BY_NAME["gradient_norm"]).axes
    assert axes.get_yscale() == "linear"


def test_many_stages_are_numbered_only():
    config = tiny_run.make_config("train.stages=12,train.epochs=8")
    [axes] = draw_curve(run(24, hparams.make_stages(config)), BY_NAME["loss"]).axes
    assert labels(axes) == [str(number) for number in range(1, 13)]


def test_a_stage_that_draws_its_size_names_the_range():
    [stage] = hparams.make_stages(tiny_run.make_config("train.schedule=random"))
    assert stage_label(stage).startswith("17–32 px\n")


def test_a_bar_for_the_speed_of_each_stage():
    [axes] = draw_throughput(throughputs(run(5))).axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([20, 45])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1\n17 px", "2\n22 px"]


def test_they_are_pictures():
    for curve in CURVES:
        figure = draw_curve(run(5, gradient_norm=1.0, accuracy=0.5, learning_rate=0.1), curve)
        assert figure_png(figure).startswith(b"\x89PNG")
