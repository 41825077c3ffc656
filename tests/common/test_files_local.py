"""Small files are written whole or not at all."""

import os

import pytest

from efficientnetv2.common.errors import UserError, reason_of
from efficientnetv2.common.files import atomic_write


@pytest.mark.parametrize("content", ["grün\n", b"\x00\xff"])
def test_a_file_is_replaced_and_leaves_no_part(content, tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    atomic_write(str(path), content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert os.listdir(tmp_path) == ["file"]


def test_what_was_there_stays_until_all_is_written(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=f"^cannot write {path}: No space left on device$"):
        atomic_write(str(path), "after")
    assert path.read_text() == "before"


def test_a_reason_is_one_line_without_the_path():
    class OfTensorFlow(Exception):
        message = "/runs/best;\n No space left on device"

    assert reason_of(OSError(2, "No such file", "/runs")) == "No such file"
    assert reason_of(OfTensorFlow()) == "No space left on device"
