"""What the records of a run say of it."""

import json

import pytest
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.report.history import History, is_finished, read_history, series, throughputs

CONFIG = tiny_run.make_config("train.batch_size=4")  # Four stages of six steps.
STAGES = hparams.make_stages(CONFIG)


def train_record(step, speed, size=17, **more):
    return {"kind": "train", "step": step, "images_per_second": speed, "image_size": size, **more}


def history(train=(), evaluations=()):
    return History(STAGES, tuple(train), tuple(evaluations))


def test_a_running_run_is_read_up_to_the_line_that_is_being_written(tmp_path):
    lines = [
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "eval", "step": 1, "loss": 3.0},
        {"kind": "train", "step": 2, "loss": 1.0},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "train", "step": 3, "lo')
    read = read_history(str(tmp_path), CONFIG)
    assert read.train == (lines[0], lines[2])
    assert read.evaluations == (lines[1],)
    assert read.stages == STAGES
    assert (read.step, read.end_step) == (2, 24)


def test_before_anything_was_logged(tmp_path):
    read = read_history(str(tmp_path), CONFIG)
    assert (read.step, read.begun_stages(), throughputs(read)) == (0, (), ())
    assert not is_finished(read, CONFIG)


def test_values_that_are_missing_are_no_points():
    records = [{"step": 1, "a": 1.0}, {"step": 2, "a": None}, {"step": 3}, {"step": 4, "a": 0.0}]
    assert series(records, "a") == ([1, 4], [1.0, 0.0])


@pytest.mark.parametrize("step, begun", [(0, 0), (1, 1), (6, 1), (7, 2), (24, 4)])
def test_stages_begin_with_their_first_step(step, begun):
    run = history([train_record(step, 1.0)])
    assert [stage.index for stage in run.begun_stages()] == list(range(begun))


def test_the_speed_of_each_stage():
    """Windows of 1, 2 and 3 steps; the first step of a stage is not timed, and here alone."""
    run = history(
        [
            train_record(1, None),
            train_record(3, 10.0),
            train_record(6, 20.0),
            train_record(8, 40.0, 22),
        ]
    )
    first, second = throughputs(run)
    assert first.stage == STAGES[0]
    assert (first.steps_done, second.steps_done) == (6, 2)
    assert first.images_per_second == 15.0
    assert first.megapixels_per_second == pytest.approx(15 * 17**2 / 1e6)
    assert first.seconds == pytest.approx(2 * 4 / 10 + 3 * 4 / 20)
    assert second.images_per_second == 40.0
    assert second.megapixels_per_second == pytest.approx(40 * 22**2 / 1e6)
    assert second.seconds == pytest.approx(2 * 4 / 40)


def test_a_stage_that_was_not_timed_has_no_speed():
    [only] = throughputs(history([train_record(1, None)]))
    assert (only.images_per_second, only.megapixels_per_second, only.seconds) == (None, None, 0)


def test_a_run_is_finished_at_its_end_or_when_patience_is_over():
    assert is_finished(history([train_record(24, 1.0)]), CONFIG)
    assert not is_finished(history([train_record(23, 1.0)]), CONFIG)
    patient = tiny_run.make_config("train.batch_size=4,eval.best_metric=loss,eval.patience=2")
    losses = [{"step": step, "loss": loss} for step, loss in [(2, 1.0), (4, 2.0), (6, 3.0)]]
    assert is_finished(history((), losses), patient)
    assert not is_finished(history((), losses[:2]), patient)
    assert not is_finished(history((), losses), CONFIG)
