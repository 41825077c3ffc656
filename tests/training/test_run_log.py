"""What a run tells, on the screen and in its files."""

import io
import json

import pytest
import tiny_run

from efficientnetv2 import hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.training import run_log
from efficientnetv2.training.run_log import Progress, RunLog, scores_line

STAGES = hparams.make_stages(tiny_run.make_config())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_records_go_to_a_file_and_to_tensorboard(tmp_path):
    log = RunLog(str(tmp_path))
    assert log.last("train") == {}
    log.record("train", 4, 0, {"loss": 1.5})
    log.record("eval", 4, 0, {"top1": 0.5, "examples": 10})
    log.record("train", 8, 1, {"loss": 0.5})
    assert lines(tmp_path) == [
        {"kind": "train", "step": 4, "stage": 0, "loss": 1.5},
        {"kind": "eval", "step": 4, "stage": 0, "top1": 0.5, "examples": 10},
        {"kind": "train", "step": 8, "stage": 1, "loss": 0.5},
    ]
    assert log.count == 3
    assert log.last("train")["step"] == 8
    assert log.last("eval")["top1"] == 0.5
    written = {p.parent.name for p in (tmp_path / "tensorboard").rglob("events*")}
    assert written == {"train", "eval"}


@pytest.mark.parametrize("rest", ["", '{"kind": "train", "st', '{"kind": "train"}', "\x00\x00\n"])
def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path, rest):
    """Also where that is of the checkpoint's own step, and a line that was not finished."""
    log = RunLog(str(tmp_path))
    for kind, step in (("train", 2), ("train", 4), ("eval", 4), ("train", 6)):
        log.record(kind, step, 0, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(rest)
    again = RunLog(str(tmp_path))
    assert again.last("train")["step"] == 6
    again.keep(2)
    again.record("train", 5, 0, {"loss": 2.0})
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 5]
    assert again.count == 3
    assert not list(tmp_path.glob("*.part"))


def test_a_line_that_is_no_record_is_dropped_only_at_the_end(tmp_path):
    log = RunLog(str(tmp_path))
    log.record("train", 2, 0, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    log.keep(9)
    assert (log.count, len(lines(tmp_path))) == (1, 1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("what?\n")
    log.record("train", 4, 0, {"loss": 1.0})
    with pytest.raises(UserError, match="metrics.jsonl: line 2 is no record; take it out"):
        log.keep(9)


def test_a_record_that_cannot_be_written_is_a_user_error(tmp_path):
    log = RunLog(str(tmp_path))
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot write .*metrics.jsonl: Is a directory"):
        log.record("train", 2, 0, {"loss": 1.0})
    (tmp_path / "tensorboard").write_text("")
    (tmp_path / "metrics.jsonl").rmdir()
    with pytest.raises(UserError, match="cannot write .*tensorboard: "):
        log.record("train", 2, 0, {"loss": 1.0})


def test_the_progress_line_shows_where_the_run_is(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    terminal = Terminal()
    progress = Progress(STAGES, terminal)
    now[0] += 2
    speed = progress.update(STAGES[2], 7, images=16, loss=1.25, accuracy=0.5)
    assert speed == 8.0
    # Left: 2 steps of 27 pixels and 3 of 32, 8 images each, at 8 images of 27 pixels a second.
    seconds = int(2 + 3 * (32 / 27) ** 2)
    assert terminal.getvalue() == (
        "\r\x1b[Kstage 3/4  27px  step 7/12  8 images/s  loss 1.250  accuracy 0.500  "
        f"left 0:00:{seconds:02d}"
    )


def test_the_time_left_of_a_mixture_of_sizes_does_not_follow_the_last_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    config = tiny_run.make_config("train.schedule=random")
    (stage,) = hparams.make_stages(config)
    terminal = Terminal()
    progress = Progress((stage,), terminal)
    now[0] += 2
    progress.update(stage.variants[0], 2, images=16, loss=1.25, accuracy=0.5)
    assert "  17px  step 2/12  8 images/s" in terminal.getvalue()
    assert terminal.getvalue().endswith("left 0:00:10")


def test_a_file_gets_a_line_now_and_then(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(STAGES, stream)
    for step in (1, 2, 3):
        now[0] += 6
        progress.update(STAGES[0], step, images=8, loss=1.0, accuracy=0.5)
    progress.message("done")
    shown = stream.getvalue().splitlines()
    assert [line.split("  ")[2] for line in shown[:-1]] == ["step 1/12", "step 3/12"]
    assert shown[-1] == "done"
    assert "\r" not in stream.getvalue()


def test_what_is_no_training_does_not_count_as_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
    progress = Progress(STAGES, io.StringIO())
    now[0] += 50  # An evaluation.
    progress.start_window()
    now[0] += 1
    assert progress.update(STAGES[0], 1, images=8, loss=1.0, accuracy=0.5) == 8.0


def test_the_line_of_an_evaluation_has_its_chief_scores():
    single = {"loss": 0.11, "top1": 0.985, "top5": 1.0, "examples": 600}
    assert scores_line(single) == "loss 0.110  top-1 0.9850  top-5 1.0000"
    several = {"loss": 0.5, "hit_at_1": 0.25, "hit_at_5": 0.75, "recall_at_5": 0.1}
    several |= {"global_ap": 0.125, "examples": 4}
    assert scores_line(several) == "loss 0.500  hit@1 0.2500  hit@5 0.7500  AP 0.1250"
