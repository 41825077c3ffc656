"""Which weights an `Optimization` moves: by pattern, by depth, while the head warms up."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from optimization_run import Run, make_model
from replicas import moved, two_replicas

from efficientnetv2 import build_model, hparams
from efficientnetv2.common.errors import UserError
from efficientnetv2.network.compat import var_path
from efficientnetv2.training.optimizer import batch_norms, head_depths, head_warmup_steps


def test_depths_count_blocks_from_the_classifier():
    depths = head_depths(make_model())
    by_layer = {}
    for path, depth in depths.items():
        by_layer.setdefault(path.split("/")[0], set()).add(depth)
    assert by_layer == {
        "stem_conv": {4},
        "stem_bn": {4},
        "blocks_0": {3},
        "blocks_1": {2},
        "head_conv": {1},
        "head_bn": {1},
        "classifier": {0},
    }
    assert {var_path(w) for w in make_model().weights} == set(depths)


def test_depths_of_an_architecture_of_keras_count_its_layers():
    model = build_model("keras/MobileNetV2", num_classes=3)
    depths = head_depths(model)
    body = next(x for x in model.layers if isinstance(x, keras.Model))
    layers = [x for x in body.layers if x.weights]
    assert depths["classifier/kernel"] == 0
    assert {depths[var_path(w)] for w in layers[-1].weights} == {1}
    assert {depths[var_path(w)] for w in layers[0].weights} == {len(layers)}
    assert sorted(set(depths.values())) == list(range(len(layers) + 1))
    assert len(batch_norms(model)) == sum("BatchNorm" in type(x).__name__ for x in layers) > 50


@pytest.mark.parametrize("strategy", [None, two_replicas])
def test_in_the_warm_up_of_the_head_nothing_else_moves(strategy):
    run = Run("train.head_warmup_epoch=1,train.optimizer=adam", strategy and strategy())
    before, state = run.numbers(), run.state()
    for number in range(3):
        run.step(number, head_only=True)
    after = run.numbers()
    assert moved(before, after) == {"classifier/kernel", "classifier/bias"}
    in_head = [g.in_head for g in run.optimization.groups]
    assert sorted(in_head) == [False, True]
    head = f"group_{in_head.index(True)}/"
    changed = moved(state, run.state())
    assert changed
    assert {key for key in changed if not key.startswith(head) and "rate" not in key} == set()

    # After it the rest starts as in a run without one: its own steps are counted.
    fresh = Run("train.optimizer=adam", strategy and strategy())
    run.step(3)
    fresh.step(3)
    found, expected = run.numbers(), fresh.numbers()
    for path in after:
        if "classifier" not in path:
            np.testing.assert_allclose(found[path], expected[path], rtol=1e-5, err_msg=path)


BLOCKS = [f"blocks_{i}/inner_{w}" for i in (0, 1) for w in ("dense/kernel", "dense/bias")]
BLOCK_NORMS = [f"blocks_{i}/inner_bn/{w}" for i in (0, 1) for w in ("gamma", "beta")]


@pytest.mark.parametrize(
    "settings, expected",
    [
        ("train.varsexp=^classifier", ["classifier/kernel", "classifier/bias"]),
        ("train.varsexp=blocks", [*BLOCKS, *BLOCK_NORMS]),
        ("train.freeze=stem|head|classifier", [*BLOCKS, *BLOCK_NORMS]),
        ("train.varsexp=blocks,train.freeze=_bn", BLOCKS),
        ("train.varsexp=blocks,train.freeze_bn=true", BLOCKS),
    ],
)
def test_patterns_choose_what_learns(settings, expected):
    run = Run(settings)
    before = run.numbers()
    run.step(0)
    assert moved(before, run.numbers()) == set(expected)
    every = {var_path(w) for w in make_model().trainable_weights if "kernel" in var_path(w)}
    assert {var_path(w) for w in run.optimization.decayed} == every


@pytest.mark.parametrize(
    "settings, message",
    [
        ("train.freeze=steem", r"^train.freeze='steem' matches no weight.* classifier/bias$"),
        ("train.varsexp=steem", "^train.varsexp='steem' matches no weight"),
        ("train.freeze=.", "^train.freeze=. leaves no weight to train; drop one"),
        ("train.varsexp=gamma,train.freeze_bn=true", "^train.varsexp=gamma, train.freeze_bn=True "),
        ("train.freeze=classifier,train.head_warmup_epoch=2", "^train.head_warmup_epoch=2.* needs"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Run(settings)


def test_a_frozen_batch_norm_does_not_move(tmp_path):
    run = Run("train.freeze_bn=true")
    assert not any(layer.trainable for layer in batch_norms(run.model))
    assert len(batch_norms(run.model)) == 4
    assert all(layer.trainable for layer in batch_norms(Run().model))
    before = run.numbers()
    run.step(0)
    assert not any("_bn" in path for path in moved(before, run.numbers()))
    run.model(tf.ones([4, 3]) * 100, training=True)
    assert not any("_bn" in path for path in moved(before, run.numbers()))


def test_the_warm_up_of_the_head_is_counted_in_images():
    config = tiny_run.make_config("train.head_warmup_epoch=1.5")  # 24 images, batches of 8.
    assert head_warmup_steps(config) == 4.5
    unplanned = hparams.with_values(tiny_run.make_config(), data__splits__train__num_images=None)
    assert head_warmup_steps(unplanned) == 0
