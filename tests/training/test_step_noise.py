"""Noise that is a function of seed, step, layer and row."""

import numpy as np
import pytest
import tensorflow as tf
import tiny_run

from efficientnetv2 import build_model
from efficientnetv2.training.step import DrawnNoise, StepNoise


def drop(seed=0, step=0, first_row=0, rows=8, shape=(6,), rate=0.5, name="layer"):
    noise = StepNoise(seed, tf.constant(step, tf.int64), tf.constant(first_row), 8)
    return noise.drop(tf.ones([rows, *shape]), rate, name).numpy()


def test_the_same_arguments_give_the_same_noise():
    np.testing.assert_array_equal(drop(), drop())
    np.testing.assert_array_equal(drop(shape=(4, 4, 2)), drop(shape=(4, 4, 2)))


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 1}, {"name": "layer_1"}])
def test_seed_step_and_name_each_change_it(other):
    assert (drop(shape=(100,)) != drop(shape=(100,), **other)).any()
    np.testing.assert_array_equal(drop(**other), drop(**other))


def test_replicas_drop_what_one_replica_would():
    for shape in ((6,), (3, 3, 2)):
        whole = drop(shape=shape)
        for count in (2, 4):
            parts = [
                drop(shape=shape, first_row=r, rows=8 // count) for r in range(0, 8, 8 // count)
            ]
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_features_drop_by_themselves_and_images_whole():
    features = drop(shape=(400,), rate=0.25)
    assert (features == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert features.max() == pytest.approx(1 / 0.75)
    assert (features != features[:, :1]).any()
    images = np.concatenate([drop(shape=(3, 3, 2), step=i, rate=0.25) for i in range(200)])
    assert (images == images[:, :1, :1, :1]).all()
    assert (images[:, 0, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.04)
    assert images.mean() == pytest.approx(1, abs=0.06)


def test_the_largest_seed_is_valid():
    assert drop(seed=2**30 - 1).shape == (8, 6)


def test_keeps_the_dtype():
    noise = StepNoise(0, tf.constant(0, tf.int64), tf.constant(0), 8)
    assert noise.drop(tf.ones([8, 3], tf.bfloat16), 0.5, "layer").dtype == tf.bfloat16


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_half_precision_drops_what_float32_does(dtype):
    """Official noise in bfloat16 has steps of 1/128, which moves small rates (D17)."""
    whole, half = (
        StepNoise(0, tf.constant(0, tf.int64), tf.constant(0), 4096).drop(
            tf.ones([4096, 8], t), 0.005, "layer"
        )
        for t in (tf.float32, dtype)
    )
    np.testing.assert_array_equal(tf.cast(half, tf.float32) == 0, whole == 0)
    assert 0.003 < np.mean(whole == 0) < 0.007


def test_noise_drawn_before_is_that_of_the_step_and_xla_drops_by_it():
    model = build_model(tiny_run.SPEC, num_classes=3, drop_path_rate=0.9, dropout_rate=0.5)
    noise = StepNoise(3, tf.constant(7, tf.int64), tf.constant(4), 8)
    numbers = noise.drawn(model, 4)
    features, images = tf.ones([4, 16]), tf.ones([4, 2, 2, 8])
    assert set(numbers) == {"head_dropout", "blocks_1_drop_path"}

    @tf.function(jit_compile=True)
    def compiled(x, rate, numbers, name):
        return DrawnNoise(numbers).drop(x, rate, name)

    for x, rate, name in ((features, 0.5, "head_dropout"), (images, 0.45, "blocks_1_drop_path")):
        expected = noise.drop(x, rate, name)
        assert 0 < np.mean(expected == 0) < 1
        np.testing.assert_array_equal(DrawnNoise(numbers).drop(x, rate, name), expected)
        np.testing.assert_array_equal(compiled(x, rate, numbers, name), expected)
