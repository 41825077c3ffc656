"""Checkpoints that are damaged, not finished or on a full disk: whole or not there."""

import os
import resource

import pytest
import tensorflow as tf
from checkpoint_state import DATA, INDEX, MANIFEST, SPEC, State, names, save_two, three

from efficientnetv2 import build_model, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.training import checkpoint
from efficientnetv2.training.checkpoint import has_checkpoint


@pytest.fixture
def saved(tmp_path):
    return save_two(tmp_path)


def damage(file, how):
    content = file.read_bytes()
    file.unlink()
    if how == "short":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":  # One bit, in the middle.
        half = len(content) // 2
        file.write_bytes(content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :])


@pytest.mark.parametrize("part", [DATA, INDEX, MANIFEST])
@pytest.mark.parametrize("how", ["short", "flipped", "missing"])
def test_a_damaged_one_is_named_and_the_one_before_it_is_used(saved, tmp_path, part, how):
    damage(tmp_path / f"ckpt-17.{part}", how)
    again, told = State(tmp_path, keep=2), []
    assert again.checkpoint.restore(told.append) == 9
    again.check(saved[0])
    assert again.checkpoint.extra == {"of": 9}
    (line,) = told
    assert line.startswith("ckpt-17 is damaged (ckpt-17.") and "\n" not in line
    # Whoever loads the weights gets whole ones, and the damaged one is written anew.
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-9")
    assert load_weights(build_model(SPEC, num_classes=3), str(tmp_path)).step == 9
    again.checkpoint.save(17)
    assert State(tmp_path).checkpoint.restore(pytest.fail) == 17
    assert names(tmp_path) == three(9) | three(17)


def test_a_damaged_one_goes_when_the_run_has_got_on(saved, tmp_path):
    damage(tmp_path / f"ckpt-17.{DATA}", "flipped")
    again = State(tmp_path)
    again.checkpoint.restore()
    again.checkpoint.save(14)
    assert names(tmp_path) == three(9) | three(14)


def test_where_all_are_damaged_the_run_does_not_start_anew(saved, tmp_path):
    damage(tmp_path / f"ckpt-9.{DATA}", "flipped")
    damage(tmp_path / f"ckpt-17.{MANIFEST}", "missing")
    before = names(tmp_path)
    message = (
        r"no checkpoint that is whole: ckpt-17 is damaged \(ckpt-17.json: No such file.*\); "
        r"ckpt-9 is damaged \(ckpt-9.data-00000-of-00001 is not what was written"
    )
    assert has_checkpoint(str(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        State(tmp_path).checkpoint.restore()
    assert "\n" not in str(error.value)
    assert names(tmp_path) == before


@pytest.mark.parametrize("moment", ["data", "digest", "manifest"])
def test_what_was_not_finished_does_not_count_and_is_removed(saved, tmp_path, monkeypatch, moment):
    """A killed process, which cleans nothing up."""

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    state = State(tmp_path)
    state.checkpoint.restore()
    if moment == "data":
        (tmp_path / "ckpt-20_temp").mkdir()
        (tmp_path / "ckpt-20_temp" / "part-00000-of-00001.index").write_text("")
        (tmp_path / f"ckpt-20.{DATA}.tempstate123").write_text("")
    else:
        owner = checkpoint if moment == "digest" else checkpoint.os
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, "sha256_of" if moment == "digest" else "replace", kill)
            state.checkpoint.save(20)
    assert names(tmp_path) > three(9) | three(17)
    assert load_weights(build_model(SPEC, num_classes=3), str(tmp_path)).step == 17
    again = State(tmp_path)
    assert again.checkpoint.restore(pytest.fail) == 17
    again.check(saved[1])
    assert names(tmp_path) == three(9) | three(17)


def test_one_whose_manifest_is_there_counts_before_tensorflow_lists_it(saved, tmp_path):
    state = State(tmp_path)
    listed = (tmp_path / "checkpoint").read_text()
    state.checkpoint.save(20)
    (tmp_path / "checkpoint").write_text(listed)
    assert State(tmp_path).checkpoint.restore(pytest.fail) == 20
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-20")


def test_a_disk_that_refuses_is_a_user_error_and_the_last_one_stays(saved, tmp_path):
    """A real one: the process may not write files that are larger than this."""
    state = State(tmp_path)
    state.checkpoint.restore()
    expected = state.values()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*ckpt-20: .*; make room,.* from .*-17$"):
            state.checkpoint.save(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == three(9) | three(17)
    again = State(tmp_path)
    assert again.checkpoint.restore(pytest.fail) == 17
    again.check(expected)
    state.checkpoint.save(20)  # There is room again.
    assert State(tmp_path).checkpoint.restore(pytest.fail) == 20


@pytest.mark.parametrize(
    ("owner", "function"),
    [(tf.train.Checkpoint, "write"), (os, "fsync"), (os, "replace"), (checkpoint, "sha256_of")],
)
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "/somewhere; No space left on device"),
    ],
)
def test_wherever_the_disk_is_full(saved, tmp_path, monkeypatch, owner, function, error):
    def full(*_):
        raise error

    state = State(tmp_path)
    state.checkpoint.restore()
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, full)
        message = "^cannot write .*ckpt-20: No space left on device; make room"
        with pytest.raises(UserError, match=message) as told:
            state.checkpoint.save(20)
    assert "\n" not in str(told.value)
    assert names(tmp_path) == three(9) | three(17)
    assert State(tmp_path).checkpoint.restore(pytest.fail) == 17
