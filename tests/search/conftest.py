"""Searches take turns on a host by files in the temporary folder: each test has its own."""

import tempfile

import pytest
from search_run import open_study


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
