"""A run is a function of (config, seed): killed at any moment, it ends with the same bits."""

import os
import pathlib
import subprocess
import sys

import kill_moments
import killed_run
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_that_is_killed_at_20_random_moments_ends_with_the_same_bits(tmp_path):
    """The table is printed; `tests/helpers/killed_run.py` says what is in it."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers")))
    result = subprocess.run(
        [sys.executable, killed_run.__file__, str(tmp_path), "--kills=20", "--seed=1"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    print(result.stdout)
    rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()[2:]]
    killed = [moment for _, moment, *_ in rows if not moment.startswith("stopping")]
    assert len(killed) == 20
    assert {moment for moment in killed} >= {
        function.__name__.replace("_", " ")
        for function in kill_moments.KILLS
        if function is not kill_moments.at_any_time  # The run may be over before.
    } - {"going back", "dropping records"}  # Which not every life does.
    assert [equal for *_, equal in rows] == ["yes"] * len(rows), result.stdout
