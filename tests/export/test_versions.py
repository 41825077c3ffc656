"""Folders of versions: new ones whole or not there, old ones never written over."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading

import pytest

import efficientnetv2.export.saved_model
from efficientnetv2.common.errors import UserError
from efficientnetv2.export.saved_model import export_saved_model
from efficientnetv2.export.versions import find_version, new_version, versions_in

ROOT = pathlib.Path(__file__).parents[2]


def write_version(folder, version=None) -> str:
    with new_version(str(folder), version) as (part, final):
        pathlib.Path(part, "file").write_text("content")
    return final


def test_the_next_free_version_is_above_the_newest(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert write_version(folder) == str(folder / "1")
    assert write_version(folder, 9) == str(folder / "9")
    assert write_version(folder, 4) == str(folder / "4")
    assert write_version(folder) == str(folder / "10")
    assert versions_in(folder) == [1, 4, 9, 10]
    assert all((folder / str(n) / "file").read_text() == "content" for n in (1, 4, 9, 10))
    assert len(os.listdir(folder)) == 4


@pytest.mark.parametrize("content", ["empty", "full", "file"])
def test_an_existing_version_is_never_written_over(tmp_path, content):
    if content == "file":
        (tmp_path / "3").touch()
    else:
        (tmp_path / "3").mkdir()
    if content == "full":
        (tmp_path / "3" / "old").touch()
    refused = pytest.raises(UserError, match="3 exists, and a version is never .*; give another -")
    with refused, new_version(str(tmp_path), 3):
        pytest.fail("nothing is to be done for it")
    assert os.listdir(tmp_path) == ["3"]
    assert content != "full" or os.listdir(tmp_path / "3") == ["old"]


@pytest.mark.parametrize("version", [None, 1])
def test_of_two_that_race_the_second_is_refused(tmp_path, version):
    """Both began when the version was free."""
    refused = pytest.raises(UserError, match="1 exists, and a version is never written over")
    with refused, new_version(str(tmp_path), version) as (part, final):
        pathlib.Path(part, "file").write_text("late")
        assert write_version(tmp_path, version) == final
    assert os.listdir(tmp_path) == ["1"]
    assert (tmp_path / "1" / "file").read_text() == "content"


def test_one_that_appears_at_the_last_moment_makes_renaming_fail(tmp_path, monkeypatch):
    """Of a program that knows nothing of our lock."""
    rename = os.rename

    def late(source, target):
        os.mkdir(target)
        pathlib.Path(target, "theirs").touch()
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(UserError, match=r"cannot write the export to .*: Directory not empty$"):
        write_version(tmp_path)
    assert os.listdir(tmp_path) == ["1"]
    assert os.listdir(tmp_path / "1") == ["theirs"]


def test_of_many_that_race_each_version_is_written_once(tmp_path):
    outcomes, together = [], threading.Barrier(8)

    def compete(number):
        together.wait()
        try:
            outcomes.append(write_version(tmp_path, 5 if number % 2 else None))
        except UserError:
            outcomes.append(None)

    threads = [threading.Thread(target=compete, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = [outcome for outcome in outcomes if outcome]
    assert written
    assert len(outcomes) == 8
    assert sorted(written) == sorted(set(written)) == sorted(map(str, tmp_path.iterdir()))


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    code = f"""
import pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
from efficientnetv2.export.versions import new_version
with new_version({str(tmp_path)!r}) as (part, final):
    pathlib.Path(part, "half").touch()
    print(part, flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        part = child.stdout.readline().strip()
        assert os.listdir(part) == ["half"]
        assert write_version(tmp_path, 7) == str(tmp_path / "7")
        assert os.listdir(part) == ["half"]
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()
    assert os.path.exists(part)
    (tmp_path / "2.part").mkdir()  # As earlier versions of this program named them.
    (tmp_path / "notes.part").mkdir()
    write_version(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["7", "8", "notes.part"]


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(tmp_path, model, config):
    """A real one: the process may not write files that are larger than this."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write the export to .*: ") as told:
            export_saved_model(model, str(tmp_path), config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("function", ["write_labels", "write_warmup", "write_card"])
def test_wherever_the_disk_is_full(tmp_path, monkeypatch, model, config, function):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(efficientnetv2.export.saved_model, function, full)
    with pytest.raises(UserError, match="^cannot write the export to .*: No space left on device$"):
        export_saved_model(model, str(tmp_path), config)
    assert os.listdir(tmp_path) == []


def test_an_export_gets_the_version_that_is_asked_for(tmp_path, model, config):
    path = export_saved_model(model, str(tmp_path), config, version=12)
    assert path == find_version(str(tmp_path)) == find_version(path) == str(tmp_path / "12")
    with pytest.raises(UserError, match="12 exists"):
        export_saved_model(model, str(tmp_path), config, version=12)
