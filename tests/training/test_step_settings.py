"""Training steps on replicas, in parts, in half precision, compiled and while the head warms up."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_run
from replicas import moved, two_replicas
from step_run import STRATEGY, Run, assert_close

from efficientnetv2.common.errors import UserError

ALL_AT_ONCE = (
    "train.freeze_bn=true,train.gclip=0.03,train.accumulate_steps=2,train.layer_lr_decay=0.7,"
    "train.decoupled_weight_decay=true,train.weight_decay=0.1,train.optimizer=nesterov"
)


@pytest.mark.parametrize("settings", ["train.weight_decay=0.1", ALL_AT_ONCE])
def test_replicas_do_what_one_does(settings):
    one, two = Run(settings), Run(settings, two_replicas())
    start = one.numbers()
    for number in (0, 1):
        found, expected = two.step(number, 0.01), one.step(number, 0.01)
        assert_close(found, expected)
        assert expected["gradient_norm"] > 0.05
    assert_close(two.numbers(), one.numbers())
    weights = {path for path in start if not path.startswith("ema/")}
    frozen = {path for path in start if "_bn/" in path} if "freeze" in settings else set()
    for run in (one, two):
        assert moved(start, run.numbers()) & weights == weights - frozen


@pytest.mark.parametrize("strategy", [None, two_replicas])
def test_batch_norm_sees_each_part_of_an_accumulated_step(strategy):
    """Its statistics move once per part: they keep 0.9 * 0.9 of the old ones."""
    run = Run("train.accumulate_steps=2", strategy() if strategy else STRATEGY)
    run.model.get_layer("stem_bn").moving_mean.assign([1e4] * 8)
    run.step()
    moving_mean = run.numbers()["stem_bn/moving_mean"]
    np.testing.assert_allclose(moving_mean, 0.81e4, rtol=1e-2)


def test_accumulated_parts_add_up_to_one_pass():
    """Noise included, which follows from the place in the whole batch."""
    settings = "train.freeze_bn=true,train.weight_decay=0.1,train.accumulate_steps="
    whole, parts = Run(settings + "1"), Run(settings + "4")
    assert_close(parts.step(), whole.step())
    assert_close(parts.numbers(), whole.numbers())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_step_in_half_precision_agrees_with_float32(precision):
    exact, half = Run(), Run(f"train.precision={precision}")
    two = Run(f"train.precision={precision}", two_replicas())
    start = exact.numbers()
    expected = exact.step()
    for run in (half, two):
        found = run.step()
        assert found["loss"].dtype == np.float32
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.01)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=0.1)
        for path, value in exact.numbers().items():
            mine = run.numbers()[path]
            assert mine.dtype == np.float32
            change, own = value - start[path], mine - start[path]
            assert np.linalg.norm(own - change) < 0.25 * np.linalg.norm(change) + 1e-3, path
    assert half.model(tf.zeros([1, 17, 17, 3], tf.uint8)).dtype == tf.float32
    assert half.model.get_layer("blocks_1").compute_dtype == precision


@pytest.mark.parametrize("strategy", [None, pytest.param(two_replicas, marks=pytest.mark.slow)])
def test_an_overflow_in_float16_changes_the_scale_alone(strategy):
    run = Run("train.precision=float16", strategy() if strategy else STRATEGY)
    run.step()
    before, state = run.numbers(), run.state()
    scale = run.optimization.loss_scale.scale
    scale.assign(2.0**100)
    found = run.step(1)
    assert np.isfinite(found["loss"])
    assert found["gradient_norm"] == 0
    assert not moved(before, run.numbers())
    changed = moved(state, run.state())
    assert {key for key in changed if "rate" not in key} == {
        "loss_scale/scale",
        "loss_scale/finite_steps",
    }
    assert scale.numpy() == 2.0**99
    scale.assign(2.0**10)
    assert run.step(1)["gradient_norm"] > 0
    assert moved(before, run.numbers()) == set(before)
    # Where the scale is not at fault, the norm says that something is wrong.
    scale.assign(1.0)
    label = np.full((run.batch, tiny_run.CLASSES), np.nan, np.float32)
    assert not np.isfinite(run.step(2, label=label)["gradient_norm"])


def test_compiled_steps_agree_and_drop_the_same():
    plain, compiled = Run(), Run("train.jit_compile=true")
    for number in (0, 1):
        assert_close(compiled.step(number, 0.01), plain.step(number, 0.01), rtol=1e-3)
    assert_close(compiled.numbers(), plain.numbers(), rtol=1e-2, atol=1e-4)


def test_steps_are_compiled_on_replicas_without_common_statistics():
    settings = "train.freeze_bn=true,train.jit_compile="
    plain, compiled = (Run(f"{settings}{on}", two_replicas()) for on in ("false", "true"))
    assert_close(compiled.step(), plain.step(), rtol=1e-3)
    with pytest.raises(UserError, match="^train.jit_compile=true cannot compile BatchNorm over"):
        Run("train.jit_compile=true", two_replicas())


def test_only_the_classifier_learns_while_the_head_warms_up():
    run = Run("train.head_warmup_epoch=1")  # Three steps.
    before = run.numbers()
    for number in (0, 2):
        run.step(number)
        after = run.numbers()
        weights = {path for path in moved(before, after) if not path.startswith("ema/")}
        assert weights == {"classifier/kernel", "classifier/bias"}
        for path in (path for path in before if "classifier" not in path):
            np.testing.assert_allclose(after[path], before[path], rtol=1e-6, err_msg=path)
    run.step(3)
    assert moved(before, run.numbers()) == set(before)
    assert all(weight.trainable for weight in run.model.trainable_weights)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="^a batch of 8 must be a multiple of 16: 2 replicas .*=8"):
        Run("train.accumulate_steps=8", two_replicas())
