"""Which weights an `Optimization` moves, how far, and that its state survives a checkpoint."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_run

import hparams
from efficientnetv2 import build_model
from efficientnetv2.compat import KERAS3, tf_variable, var_path
from efficientnetv2.training.optimization import (
    Optimization,
    batch_norms,
    decayed_weights,
    head_depths,
    head_warmup_steps,
)
from efficientnetv2.training.optimizers import OPTIMIZERS, make_optimizer
from hparams import UserError


def on_this_stack(name):
    try:
        make_optimizer(name, 0.9)
    except UserError:
        return False
    return True


NAMES = [name for name in OPTIMIZERS if on_this_stack(name)]


class Body(keras.layers.Layer):
    """A block: two layers inside of one."""

    def build(self, input_shape):
        self.inner_dense = keras.layers.Dense(4, name="inner_dense")
        self.inner_bn = keras.layers.BatchNormalization(name="inner_bn")
        super().build(input_shape)

    def call(self, x, training=None):
        return self.inner_bn(self.inner_dense(x), training=training)


def make_model():
    """Five units: stem, two blocks, head, classifier."""
    x = inputs = keras.Input((3,), name="image")
    x = keras.layers.Dense(4, name="stem_conv")(x)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    x = Body(name="blocks_0")(x)
    x = Body(name="blocks_1")(x)
    x = keras.layers.Dense(5, use_bias=False, name="head_conv")(x)
    x = keras.layers.BatchNormalization(name="head_bn")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="classifier")(x))
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape).astype(np.float32))
    return model


def two_replicas():
    # Collective operations would mix up those of one strategy with those of the next.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)


class Run:
    """Updates by made-up gradients, without a forward pass; replicas get equal shares."""

    def __init__(self, overrides="", strategy=None):
        self.strategy = strategy or tf.distribute.get_strategy()
        self.config = tiny_run.make_config(overrides)
        with self.strategy.scope():
            self.model = make_model()
            self.optimization = Optimization(self.config, self.model)
        self.traced = {}

    def step(self, number, rate=0.1, head_only=False):
        if head_only not in self.traced:
            self.traced[head_only] = self._trace(head_only)
        self.traced[head_only](tf.constant(number, tf.int64), tf.constant(rate, tf.float32))

    def _trace(self, head_only):
        optimization = self.optimization
        weights = optimization.weights(head_only)

        def replica(step):
            seed = tf.stack([step, 3])
            gradients = [tf.random.stateless_normal(w.shape, seed) for w in weights]
            optimization.apply(gradients, optimization.weight_decay_at(step, 10), head_only)

        @tf.function
        def traced(step, rate):
            optimization.set_learning_rate(rate)
            self.strategy.run(replica, args=(step,))

        return traced

    def numbers(self):
        return {var_path(w): tf_variable(w).numpy() for w in self.model.weights}

    def state(self):
        return {key: variable.numpy() for key, variable in self.optimization.variables.items()}


def assert_equal(mine, theirs, **tolerance):
    assert mine.keys() == theirs.keys()
    for path, value in mine.items():
        if tolerance:
            np.testing.assert_allclose(value, theirs[path], err_msg=path, **tolerance)
        else:
            np.testing.assert_array_equal(value, theirs[path], err_msg=path)


def moved(before, after):
    return {path for path in before if (before[path] != after[path]).any()}


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


def test_the_warm_up_of_the_head_is_counted_in_images():
    config = tiny_run.make_config("train.head_warmup_epoch=1.5")  # 24 images, batches of 8.
    assert head_warmup_steps(config) == 4.5
    unplanned = hparams.with_values(tiny_run.make_config(), data__splits__train__num_images=None)
    assert head_warmup_steps(unplanned) == 0
