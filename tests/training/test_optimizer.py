"""How far an `Optimization` moves weights, and that its state survives a checkpoint."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from optimization_run import Run, make_model
from replicas import moved, two_replicas

from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import KERAS3, tf_variable, var_path
from efficientnetv2.training.optimizer import (
    OPTIMIZERS,
    decayed_weights,
    head_depths,
    make_optimizer,
)


def on_this_stack(name):
    try:
        make_optimizer(name, 0.9)
    except UserError:
        return False
    return True


NAMES = [name for name in OPTIMIZERS if on_this_stack(name)]


def assert_equal(mine, theirs, **tolerance):
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        if tolerance:
            np.testing.assert_allclose(value, theirs[path], err_msg=path, **tolerance)
        else:
            np.testing.assert_array_equal(value, theirs[path], err_msg=path)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_in_the_middle_changes_nothing(name, tmp_path):
    """With several optimizers, of layers and of the head; every number of the state is in it."""
    settings = f"train.optimizer={name},train.layer_lr_decay=0.5,train.head_warmup_epoch=1"
    run = Run(settings)
    run.step(0, head_only=True)
    run.step(1)
    saved = tf.train.Checkpoint(state=run.optimization.variables)
    path = saved.write(str(tmp_path / "state"))
    weights = run.numbers()
    run.step(2)
    run.step(3)

    Run(settings)  # So that names that Keras numbers differ.
    again = Run(settings)
    tf.train.Checkpoint(state=again.optimization.variables).read(path).assert_consumed()
    for weight in again.model.weights:
        weight.assign(weights[var_path(weight)])
    again.step(2)
    again.step(3)
    assert_equal(again.numbers(), run.numbers())
    assert_equal(again.state(), run.state())


@pytest.mark.parametrize("name", NAMES)
def test_replicas_move_weights_as_one_does(name):
    settings = f"train.optimizer={name},train.decoupled_weight_decay=true,train.weight_decay=0.1"
    one, two = Run(settings), Run(settings, two_replicas())
    start = one.numbers()
    for number in range(3):
        one.step(number)
        two.step(number)
    assert_equal(two.numbers(), one.numbers(), rtol=1e-6, atol=1e-7)
    assert_equal(two.state(), one.state(), rtol=1e-6, atol=1e-7)
    trained = {var_path(w) for w in one.model.trainable_weights}
    assert moved(start, one.numbers()) == trained


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_learns_at_its_own_rate(name):
    """As in a run of that rate: exactly, whatever the optimizer does with it."""
    run = Run(f"train.optimizer={name},train.layer_lr_decay=0.5")
    for number in range(3):
        run.step(number, rate=0.1 * (number + 1))
    for depth in (0, 2):
        slow = Run(f"train.optimizer={name}")
        for number in range(3):
            slow.step(number, rate=np.float32(0.1 * (number + 1)) * 0.5**depth)
        found, expected = run.numbers(), slow.numbers()
        of_depth = [path for path, d in head_depths(run.model).items() if d == depth]
        assert len(of_depth) >= 2
        for path in of_depth:
            np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


def test_decoupled_decay_is_that_of_adamw():
    run = Run("train.optimizer=adamw,train.weight_decay=0.2")
    theirs, optimizer = make_model(), keras.optimizers.AdamW(0.1, weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    weights = theirs.trainable_weights
    optimizer.build(weights)
    for number in range(3):
        run.step(number)
        seed = tf.constant([number, 3], tf.int64)
        gradients = [tf.random.stateless_normal(w.shape, seed) for w in weights]
        optimizer.apply_gradients(zip(gradients, weights))
    expected = {var_path(w): tf_variable(w).numpy() for w in theirs.weights}
    assert_equal(run.numbers(), expected, rtol=1e-5, atol=1e-6)
    plain = Run("train.optimizer=adam,train.decoupled_weight_decay=true,train.weight_decay=0.2")
    for number in range(3):
        plain.step(number)
    assert_equal(plain.numbers(), run.numbers())


def test_decoupled_decay_rises_and_is_not_in_the_loss():
    settings = "train.optimizer=sgd,train.weight_decay=0.5,train.weight_decay_inc=2"
    run = Run(settings + ",train.decoupled_weight_decay=true")
    plain = Run("train.optimizer=sgd")
    assert run.optimization.penalty(0.5) is None
    before = run.numbers()
    run.step(5, rate=0.1)  # Of 10: decay 0.5 * (1 + 2 * 5 / 10) = 1.
    plain.step(5, rate=0.1)
    for path, value in run.numbers().items():
        less = 0.1 * before[path] if path.endswith("kernel") else 0.0
        np.testing.assert_allclose(value, plain.numbers()[path] - less, atol=1e-6, err_msg=path)


def test_coupled_decay_is_half_the_squares_of_what_the_pattern_leaves():
    run = Run("train.weight_decay=0.5,train.weight_decay_exclude=bias|gamma|beta|head")
    squares = sum(
        (value.astype(np.float64) ** 2).sum()
        for path, value in run.numbers().items()
        if path.endswith("kernel") and "head" not in path
    )
    assert float(run.optimization.penalty(0.5)) == pytest.approx(0.25 * squares, rel=1e-5)
    assert Run("train.weight_decay=0").optimization.penalty(0) is None
    assert Run("train.weight_decay_exclude=.").optimization.penalty(1) is None
    assert run.optimization.weight_decay_at(tf.constant(3), 10) == 0.5


def test_decayed_weights_are_all_the_kernels_and_nothing_else():
    decayed = decayed_weights(tiny_run.make_model(), "bias|gamma|beta")
    assert {var_path(w) for w in decayed} == {
        "stem_conv/kernel",
        *(f"blocks_0/{step}_conv/kernel" for step in ("expand", "project")),
        *(
            f"blocks_1/{step}_conv/kernel"
            for step in ("expand", "depthwise", "se/reduce", "se/expand", "project")
        ),
        "head_conv/kernel",
        "classifier/kernel",
    }


def test_the_default_is_one_official_optimizer():
    run = Run("train.momentum=0.5")
    assert len(run.optimization.groups) == 1
    assert run.optimization.optimizer.momentum == 0.5
    assert type(run.optimization.optimizer).__name__ == "OfficialRMSprop"
    paths = [var_path(w) for w in run.optimization.weights()]
    assert paths == [var_path(w) for w in run.model.trainable_weights]
    assert run.optimization.loss_scale is None
    assert any(key.startswith("1/") or key.startswith("2/") for key in run.optimization.variables)
    assert len(run.optimization.variables) == 2 * len(paths) + (2 if KERAS3 else 1)
