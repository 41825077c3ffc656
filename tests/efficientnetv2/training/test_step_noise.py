"""Noise that is a function of seed, step, layer and row."""

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.training.step_noise import StepNoise


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
