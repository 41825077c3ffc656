"""The measured step: what is timed, when, and of which network."""

import contextlib
import json
import sys

import pytest
import tiny_run

from efficientnetv2 import build_model, hparams, save_spec
from efficientnetv2.common.errors import UserError
from efficientnetv2.search import measure
from efficientnetv2.search.measure import (
    LEAST_STEPS,
    MOST_STEPS,
    WARM_STEPS,
    measure_spec,
    measure_step,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(measure.time, "perf_counter", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize("seconds, count", [(10.0, LEAST_STEPS), (0.0001, MOST_STEPS), (0.1, 20)])
def test_steps_are_timed_warm_and_alone_until_there_are_enough(clock, seconds, count):
    happened = []

    @contextlib.contextmanager
    def alone():
        happened.append("alone")
        clock.now += 100  # Waiting for it is not timed.
        yield
        happened.append("over")

    def step():
        happened.append("step")
        clock.now += seconds

    times = measure._timed(step, alone())
    assert happened == ["step"] * WARM_STEPS + ["alone"] + ["step"] * len(times) + ["over"]
    assert len(times) == pytest.approx(count, abs=1)
    assert times == pytest.approx([seconds] * len(times))


def test_what_is_measured_is_the_last_stage_of_the_run(tmp_path):
    save_spec(tiny_run.SPEC, str(tmp_path / "tiny.json"))
    config = hparams.with_values(
        tiny_run.make_config("data.num_classes=12,data.class_balance=loss"),
        model__model_name=str(tmp_path / "tiny.json"),
    )
    measured = measure_step(config)
    model = build_model(tiny_run.SPEC, num_classes=12)
    assert measured.parameters == model.count_params()
    assert (measured.image_size, measured.batch_size, measured.run_steps) == (32, 8, 12)
    assert LEAST_STEPS <= measured.steps <= MOST_STEPS
    assert measured.step_seconds > 0
    assert "1 replica" in measured.device


def test_networks_are_measured_from_the_command_line(tmp_path, capsys, monkeypatch):
    path = str(tmp_path / "tiny.json")
    save_spec(tiny_run.SPEC, path)
    monkeypatch.setattr(sys, "argv", ["measure", path, "--size=24", "--batch=4"])
    measure.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["image_size"], found["batch_size"]) == (path, 24, 4)
    assert found["parameters"] == build_model(tiny_run.SPEC, num_classes=1000).count_params()
    monkeypatch.setattr(sys, "argv", ["measure", "efficientnetv2-b9"])
    with pytest.raises(SystemExit, match="error: unknown model 'efficientnetv2-b9'"):
        measure.main()


def test_sizes_that_are_none_are_refused():
    with pytest.raises(UserError, match="train.batch_size must be at least 1, got 0"):
        measure_spec(tiny_run.SPEC, 32, batch_size=0)
