"""Checkpoints: everything a run needs, pruned, and refused when they do not fit."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import ModelSpec, build_model
from efficientnetv2.compat import tf_variable
from efficientnetv2.training.checkpoints import RunCheckpoint
from efficientnetv2.training.ema import WeightAverage
from efficientnetv2.training.optimizers import OfficialRMSprop
from hparams import UserError

SPEC = ModelSpec("smaller", tiny_run.SPEC.blocks[:1], head_channels=8)


class State:
    """A model, its optimizer and average, and the checkpoint over them."""

    def __init__(self, directory, classes=3, keep=5, averaged=True):
        self.model, self.optimizer = build_model(SPEC, num_classes=classes), OfficialRMSprop()
        self.optimizer.build(self.model.trainable_variables)
        self.average = WeightAverage(self.model, 0.9) if averaged else None
        self.checkpoint = RunCheckpoint(
            str(directory), self.model, self.optimizer, self.average, keep
        )

    def variables(self):
        averages = self.average.averages if self.average else []
        own = [tf_variable(v) for v in (*self.model.weights, *self.optimizer.variables)]
        return [*own, *averages]

    def values(self):
        return [variable.numpy() for variable in self.variables()]

    def randomise(self, seed):
        rng = np.random.default_rng(seed)
        for variable in self.variables():
            variable.assign(tf.cast(rng.uniform(1, 9, variable.shape), variable.dtype))


@pytest.fixture
def saved(tmp_path):
    state = State(tmp_path)
    state.randomise(0)
    state.checkpoint.save(17)
    return state


def test_restores_weights_averages_optimizer_and_step(saved, tmp_path):
    again = State(tmp_path)
    again.randomise(1)
    assert again.checkpoint.restore() == 17
    for mine, theirs in zip(again.values(), saved.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_newest_counts_and_old_ones_go(tmp_path):
    state = State(tmp_path, keep=2)
    for step in (3, 9, 12):
        state.randomise(step)
        path = state.checkpoint.save(step)
    assert path == str(tmp_path / "ckpt-12")
    assert {p.name for p in tmp_path.glob("*.index")} == {"ckpt-9.index", "ckpt-12.index"}
    expected = state.values()
    state.randomise(0)
    assert state.checkpoint.restore() == 12
    for mine, theirs in zip(state.values(), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_pruning_goes_on_after_a_restart(tmp_path):
    first = State(tmp_path, keep=2)
    for step in (1, 2):
        first.checkpoint.save(step)
    State(tmp_path, keep=2).checkpoint.save(3)
    assert {p.name for p in tmp_path.glob("*.index")} == {"ckpt-2.index", "ckpt-3.index"}


def test_nothing_to_restore_is_step_0(tmp_path):
    assert State(tmp_path).checkpoint.restore() == 0
    assert State(tmp_path / "not" / "there").checkpoint.restore() == 0


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


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["short", "missing"])
def test_a_damaged_checkpoint_is_a_user_error(saved, tmp_path, part, damage):
    file = tmp_path / f"ckpt-17.{part}"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot resume from .*ckpt-17"):
        State(tmp_path).checkpoint.restore()
