"""Mixup: the weights' distribution, and the maths of the blend."""

import numpy as np
import pytest
import tensorflow as tf

from datasets import mixup
from hparams import UserError

SEED = tf.constant([5, 9], tf.int64)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)
LABELS = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1]]
WEIGHTS = np.array([0.5, 0.75, 0.6, 1.0, 0.9], np.float32)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0])
def test_weights_follow_the_folded_beta(alpha):
    weights = mixup.draw_mixup(20000, alpha, SEED).numpy()
    shares = np.random.default_rng(1).beta(alpha, alpha, 20000)
    expected = np.maximum(shares, 1.0 - shares)
    assert weights.dtype == np.float32 and weights.shape == (20000,)
    assert weights.min() >= 0.5 and weights.max() <= 1.0
    quantiles = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(
        np.quantile(weights, quantiles), np.quantile(expected, quantiles), atol=0.02
    )


@pytest.mark.parametrize("alpha", [0.01, 1e-4])
def test_tiny_alpha_hardly_mixes(alpha):
    weights = mixup.draw_mixup(20000, alpha, SEED).numpy()  # the gamma draws underflow
    assert weights.min() >= 0.5
    np.testing.assert_allclose(weights.mean(), 1.0, atol=1.5 * alpha)


def test_alpha_zero_is_off():
    np.testing.assert_array_equal(mixup.draw_mixup(4, 0.0, SEED), np.ones(4, np.float32))
    with pytest.raises(UserError, match="-0.1"):
        mixup.draw_mixup(4, -0.1, SEED)


def test_weights_are_a_function_of_the_seed():
    first = mixup.draw_mixup(8, 0.2, SEED).numpy()
    np.testing.assert_array_equal(first, mixup.draw_mixup(8, 0.2, SEED))
    assert np.any(first != mixup.draw_mixup(8, 0.2, SEED + 1).numpy())
    in_data = tf.data.Dataset.from_tensors(SEED).map(lambda seed: mixup.draw_mixup(8, 0.2, seed))
    np.testing.assert_array_equal(first, next(in_data.as_numpy_iterator()))
    assert len(set(first.tolist())) == 8  # one draw per example


def test_blends_with_the_mirror_in_the_batch():
    images, labels = mixup.apply_mixup(tf.constant(IMAGES), tf.constant(LABELS), WEIGHTS)
    for i in range(5):
        own, partner, weight = IMAGES[i].astype(float), IMAGES[4 - i], float(WEIGHTS[i])
        exact = weight * own + (1.0 - weight) * partner
        assert np.abs(images[i].numpy() - exact).max() <= 0.5 + 1e-4  # rounded, not truncated
        np.testing.assert_allclose(labels[i], weight * LABELS[i] + (1 - weight) * LABELS[4 - i])
    assert images.dtype == tf.uint8 and labels.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(labels, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(images[2], IMAGES[2])  # the middle one meets itself
    np.testing.assert_array_equal(images[3], IMAGES[3])  # weight 1


def test_float_images_stay_float_and_unrounded():
    floats = tf.constant(IMAGES, tf.float32) / 3.0
    images, _ = mixup.apply_mixup(floats, tf.constant(LABELS), WEIGHTS)
    per_image = WEIGHTS[:, None, None, None]
    expected = per_image * floats + (1 - per_image) * floats[::-1]
    assert images.dtype == tf.float32
    np.testing.assert_allclose(images, expected, rtol=1e-6)


def test_runs_inside_tf_data():
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(5)
    mixed = batches.map(lambda images, labels: mixup.apply_mixup(images, labels, WEIGHTS))
    eager = mixup.apply_mixup(tf.constant(IMAGES), tf.constant(LABELS), WEIGHTS)
    for inside, outside in zip(next(mixed.as_numpy_iterator()), eager, strict=True):
        np.testing.assert_array_equal(inside, outside)
    assert mixed.element_spec[0].dtype == tf.uint8
