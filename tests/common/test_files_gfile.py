"""Files are replaced whole or not at all."""

import os

import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import atomic_path, make_folder, write_text


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    write_text(str(path), "old")
    with atomic_path(str(path)) as part:
        with open(part, "w") as file:
            file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("bad"), ZeroDivisionError])
def test_an_error_leaves_the_old_file_and_no_part(tmp_path, error):
    path = tmp_path / "file"
    write_text(str(path), "old")
    expected = error if isinstance(error, type) else type(error)
    with pytest.raises(expected), atomic_path(str(path)) as part:
        with open(part, "w") as file:
            file.write("ne")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "file"
    os.symlink("/dev/full", f"{path}.part")
    with pytest.raises(UserError, match=rf"^cannot write {path}: No space left on device$"):
        write_text(str(path), "text")
    assert os.listdir(tmp_path) == []


def test_errors_of_the_system_are_named_too(tmp_path):
    refused = pytest.raises(UserError, match=r"cannot write .*file: No space left on device$")
    with refused, atomic_path(str(tmp_path / "file")):
        raise OSError(28, "No space left on device")


def test_what_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "folder")
    with pytest.raises(UserError, match=f"cannot make the folder {path}: .*is not a directory"):
        make_folder(path)
    with pytest.raises(UserError, match=f"cannot write {path}"):
        write_text(path, "text")
    make_folder(str(tmp_path / "a" / "b"))
    make_folder(str(tmp_path / "a" / "b"))
    assert tf.io.gfile.isdir(str(tmp_path / "a" / "b"))
