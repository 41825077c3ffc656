"""Checkpoints: everything a run needs, and refused when they do not fit."""

import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from checkpoint_state import SPEC, State, names, save_two, three

from efficientnetv2 import build_model, load_weights
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import tf_variable
from efficientnetv2.training.checkpoint import has_checkpoint, save_weights


@pytest.fixture
def saved(tmp_path):
    return save_two(tmp_path)


def test_restores_weights_averages_optimizer_step_and_extra(saved, tmp_path):
    again = State(tmp_path)
    again.randomise(1)
    assert again.checkpoint.restore() == 17
    again.check(saved[1])
    assert again.checkpoint.extra == {"of": 17}
    assert again.checkpoint.path == str(tmp_path / "ckpt-17")


def test_extra_keeps_each_bit_and_letter(tmp_path):
    extra = {"loss": 0.1 + 0.2, "small": 5e-324, "name": 'größer "ä"', "none": None, "list": [1]}
    State(tmp_path).checkpoint.save(1, extra)
    again = State(tmp_path)
    again.checkpoint.restore()
    assert again.checkpoint.extra == extra


def test_the_newest_counts_and_old_ones_go(tmp_path):
    state = State(tmp_path, keep=2)
    for step in (3, 9, 12):
        state.randomise(step)
        path = state.checkpoint.save(step)
    assert path == str(tmp_path / "ckpt-12")
    assert names(tmp_path) == three(9) | three(12)
    assert tf.train.latest_checkpoint(str(tmp_path)) == path
    expected = state.values()
    state.randomise(0)
    assert state.checkpoint.restore() == 12
    state.check(expected)


@pytest.mark.parametrize("keep", [1, 2])
def test_pruning_goes_on_after_a_restart(tmp_path, keep):
    first = State(tmp_path, keep=keep)
    for step in (1, 2):
        first.checkpoint.save(step)
    State(tmp_path, keep=keep).checkpoint.save(13)
    assert names(tmp_path) == set().union(*map(three, (2, 13)[-keep:]))


def test_nothing_to_restore_is_step_0(tmp_path):
    assert State(tmp_path).checkpoint.restore() == 0
    assert State(tmp_path / "not" / "there").checkpoint.restore() == 0
    assert State(tmp_path).checkpoint.path is None
    assert not has_checkpoint(str(tmp_path / "not" / "there"))


def test_the_manifest_has_the_sha256_of_each_file(saved, tmp_path):
    import hashlib

    files = json.loads((tmp_path / "ckpt-17.json").read_text())["files"]
    assert set(files) == three(17) - {"ckpt-17.json"}
    for name, (size, digest) in files.items():
        content = (tmp_path / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest)


def test_another_shape_is_a_user_error(saved, tmp_path):
    with pytest.raises(UserError, match="cannot resume from .*ckpt-17.*another config") as error:
        State(tmp_path, classes=4).checkpoint.restore()
    assert "\n" not in str(error.value)


def test_state_that_the_run_lacks_is_a_user_error(saved, tmp_path):
    with pytest.raises(UserError, match="cannot resume"):
        State(tmp_path, averaged=False).checkpoint.restore()


def test_state_that_the_checkpoint_lacks_is_a_user_error(tmp_path):
    State(tmp_path, averaged=False).checkpoint.save(1)
    with pytest.raises(UserError, match="cannot resume"):
        State(tmp_path).checkpoint.restore()


def test_files_of_others_stay(saved, tmp_path):
    others = [tmp_path / name for name in ("ckpt-notes.txt", "my-ckpt-3.index", "ckpt-x.json")]
    for path in others:
        path.write_text("")
    state = State(tmp_path, keep=1)
    state.checkpoint.restore()
    state.checkpoint.save(20)
    assert all(path.exists() for path in others)


class TestWeightsAlone:
    """What `save_weights` writes, for the best of a run."""

    @pytest.mark.parametrize("averaged", [True, False])
    def test_load_weights_reads_them(self, tmp_path, averaged):
        state = State(tmp_path, averaged=averaged)
        state.randomise(3)
        folder = str(tmp_path / "best")
        path = save_weights(folder, state.model, state.average, 7)
        model = build_model(SPEC, num_classes=3)
        report = load_weights(model, folder)
        assert (report.source, report.step, report.used_ema) == (path, 7, averaged)
        expected = state.average.averages if averaged else map(tf_variable, state.model.weights)
        for mine, theirs in zip(model.weights, expected, strict=True):
            np.testing.assert_array_equal(tf_variable(mine).numpy(), theirs.numpy())

    @pytest.mark.parametrize("steps", [(4, 9), (9, 4), (4, 4)])
    def test_the_last_ones_replace_those_before(self, tmp_path, steps):
        state, folder = State(tmp_path), tmp_path / "best"
        for step in steps:
            state.randomise(10 * step)
            save_weights(str(folder), state.model, state.average, step)
        (folder / "best.json").write_text("{}")
        assert len(names(folder)) == 3
        model = build_model(SPEC, num_classes=3)
        assert load_weights(model, str(folder)).step == steps[-1]
        np.testing.assert_array_equal(
            tf_variable(model.weights[0]).numpy(), state.average.averages[0].numpy()
        )

    @pytest.mark.parametrize("step", [4, 9])
    def test_those_before_stay_where_writing_fails(self, tmp_path, monkeypatch, step):
        state, folder = State(tmp_path), tmp_path / "best"
        save_weights(str(folder), state.model, state.average, 4)
        before = {path: path.read_bytes() for path in pathlib.Path(folder).iterdir()}

        def full(*_):
            raise OSError(28, "No space left on device")

        for owner, function in ((tf.train.Checkpoint, "write"), (os, "fsync"), (os, "replace")):
            with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
                patch.setattr(owner, function, full)
                save_weights(str(folder), state.model, state.average, step)
            after = {p: p.read_bytes() for p in folder.iterdir() if p.suffix != ".part"}
            assert after == before
