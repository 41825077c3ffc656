"""Searches take turns on a host by files in the temporary folder: each test has its own."""

import tempfile

import pytest
from search_run import open_study, start_worker


@pytest.fixture(autouse=True)
def own_turns(tmp_path, monkeypatch):
    folder = tmp_path / "host"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


@pytest.fixture
def study(tmp_path):
    opened = open_study(tmp_path / "study")
    yield opened
    opened.close()


@pytest.fixture
def start():
    """Starts workers as processes, as `start_worker`; none outlives the test."""
    started = []

    def begin(*arguments):
        started.append(start_worker(*arguments))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
        worker.wait()
