"""What the benchmarks of training make of the seconds that they measured."""

import argparse

import pytest

from benchmarks import stage_schedule, train_step


def figures(*seconds, first=10.0):
    return {
        "seconds": list(seconds),
        "cpu_seconds": [2 * value for value in seconds],
        "first_seconds": 2 * first,
        "first_cpu_seconds": first,
        "peak_mb": 1000.0,
    }


def test_stages_are_those_of_the_paper():
    assert stage_schedule.stage_sizes("s") == [128, 185, 242, 300]


def test_a_run_of_stages_takes_the_mean_of_their_steps():
    measured = {128: figures(1.0, 3.0), 200: figures(2.0, 3.0), 300: figures(4.0, 8.0)}
    found = stage_schedule.summary(measured, [128, 200, 300], batch=4)
    # (1 + 2 + 4) / (3 * 4) in the first round, (3 + 3 + 8) / (3 * 8) in the second.
    assert found["seconds_ratio"] == pytest.approx(7 / 12)
    assert found["cpu_seconds_ratio"] == pytest.approx(7 / 12)
    assert found["seconds_per_image"] == [0.5, 0.625, 1.5]
    assert found["tracing_more_cpu_seconds"] == 20
    assert "0.58 of the time" in stage_schedule.table(found)


def test_ratios_compare_contenders_round_by_round():
    """A round in which the machine was slow for all does not count more than another."""
    found = {"ours": figures(1.0, 10.0, 1.0), "theirs": figures(2.0, 20.0, 2.0)}
    options = argparse.Namespace(batch=16, precision="float32")
    ours, theirs = train_step.table("b0@192", found, options).splitlines()[1:]
    assert ours.split()[:4] == ["ours", "16.0", "2.00", "2.00"]
    assert theirs.split()[:4] == ["theirs", "8.0", "1.00", "1.00"]
