"""Checkpoints: everything a run needs, whole or not there, and refused when they do not fit."""

import json
import os
import pathlib
import resource

import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import ModelSpec, build_model, load_weights
from efficientnetv2.compat import tf_variable, var_path
from efficientnetv2.training import checkpoint_files
from efficientnetv2.training.checkpoints import RunCheckpoint, has_checkpoint, save_weights
from efficientnetv2.training.ema import WeightAverage
from hparams import UserError

SPEC = ModelSpec("smaller", tiny_run.SPEC.blocks[:1], head_channels=8)
DATA, INDEX, MANIFEST = "data-00000-of-00001", "index", "json"


class State:
    """A model, the state of an optimizer and an average, and the checkpoint over them."""

    def __init__(self, directory, classes=3, keep=5, averaged=True):
        self.model = build_model(SPEC, num_classes=classes)
        self.slots = {f"slot/{var_path(w)}": tf.Variable(w) for w in self.model.trainable_variables}
        self.average = WeightAverage(self.model, 0.9) if averaged else None
        self.checkpoint = RunCheckpoint(str(directory), self.model, self.slots, self.average, keep)

    def variables(self):
        averages = self.average.averages if self.average else []
        return [*map(tf_variable, self.model.weights), *self.slots.values(), *averages]

    def values(self):
        return [variable.numpy() for variable in self.variables()]

    def randomise(self, seed):
        rng = np.random.default_rng(seed)
        for variable in self.variables():
            variable.assign(tf.cast(rng.uniform(1, 9, variable.shape), variable.dtype))

    def check(self, values):
        for mine, theirs in zip(self.values(), values, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints; the values of the first and of the second."""
    state, values = State(tmp_path), []
    for step in (9, 17):
        state.randomise(step)
        state.checkpoint.save(step, {"of": step})
        values.append(state.values())
    return values


def names(directory):
    return {path.name for path in directory.glob("ckpt-*")}


def three(step):
    return {f"ckpt-{step}.{part}" for part in (DATA, INDEX, MANIFEST)}


def damage(file, how):
    content = file.read_bytes()
    file.unlink()
    if how == "short":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":  # One bit, in the middle.
        half = len(content) // 2
        file.write_bytes(content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :])


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
        owner = checkpoint_files if moment == "digest" else checkpoint_files.os
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, "_digest" if moment == "digest" else "replace", kill)
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
    [(tf.train.Checkpoint, "write"), (os, "fsync"), (os, "replace"), (checkpoint_files, "_digest")],
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
