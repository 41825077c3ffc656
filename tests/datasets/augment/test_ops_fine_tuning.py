"""The Cutout of the fine-tuning path: who has it, where it goes, what it is filled with."""

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.datasets.augment.ops import has_cutout, noise_cutout
from efficientnetv2.hparams.config import FINE_TUNING_POLICIES, POLICIES

SEED = tf.constant([5, 9], tf.int64)
WITH = {"ft", "ft_cutout", "ft_autoaug_cutout", "ft_randaug_cutout", "ft_autoaug_randaug_cutout"}


@pytest.mark.parametrize("augname", [None, *POLICIES, *FINE_TUNING_POLICIES])
def test_who_has_it(augname):
    assert has_cutout(augname) == (augname in WITH)


def windows(size, number=400, **arguments):
    """Which pixels of black images change: bool [N, S, S]; and the values there."""
    black = tf.zeros([number, size, size, 3], tf.uint8)
    # The least byte may be 0, so the noise is told by two backgrounds.
    on_black = noise_cutout(black, SEED, **arguments).numpy()
    on_white = noise_cutout(black + tf.constant(255, tf.uint8), SEED, **arguments).numpy()
    changed = np.all(on_black == on_white, axis=-1)
    np.testing.assert_array_equal(on_black[~changed], 0)
    np.testing.assert_array_equal(on_white[~changed], 255)
    return changed, on_black[changed]


@pytest.mark.parametrize("size", [32, 33, 50, 64])
def test_the_window_has_half_the_side_about_any_centre(size):
    changed, _ = windows(size)
    rows, columns = changed.any(axis=2), changed.any(axis=1)
    np.testing.assert_array_equal(changed, rows[:, :, None] & columns[:, None])
    half = size // 4
    firsts = []
    for covered in (rows, columns):
        assert covered.sum(axis=1).min() == half  # about the first row
        assert covered.sum(axis=1).max() == 2 * half
        assert np.all(np.diff(covered.astype(int), axis=1).clip(0).sum(axis=1) <= 1)  # one piece
        first, end = covered.argmax(axis=1), size - covered[:, ::-1].argmax(axis=1)
        inside = (first > 0) & (end < size)
        np.testing.assert_array_equal((end - first)[inside], 2 * half)
        centers = np.where(first > 0, first + half, end - half)
        assert centers.min() == 0 and centers.max() == size - 1
        assert len(set(centers.tolist())) > 0.9 * size
        assert abs(centers.mean() - (size - 1) / 2) < size * 0.06  # deviation 0.015 S
        firsts.append(centers)
    assert abs(np.corrcoef(*firsts)[0, 1]) < 0.2


@pytest.mark.parametrize("full_range, least", [(False, 128), (True, 0)])
def test_the_noise_is_uniform(full_range, least):
    _, noise = windows(33, full_range=full_range)
    levels, counts = np.unique(noise, return_counts=True)
    np.testing.assert_array_equal(levels, np.arange(least, 256))
    assert counts.min() > 0.85 * counts.mean() and counts.max() < 1.15 * counts.mean()
    for first, second in ((0, 1), (1, 2), (0, 2)):  # of the channels
        assert abs(np.corrcoef(noise[:, first], noise[:, second])[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[1:, 0], noise[:-1, 2])[0, 1]) < 0.02


def test_a_function_of_the_seed_eagerly_and_inside_tf_data():
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3)).astype(np.uint8)
    result = noise_cutout(tf.constant(images), SEED)
    assert result.dtype == tf.uint8
    inside = tf.data.Dataset.from_tensors(images).map(lambda x: noise_cutout(x, SEED))
    assert inside.element_spec == tf.TensorSpec([6, 20, 20, 3], tf.uint8)
    np.testing.assert_array_equal(next(inside.as_numpy_iterator()), result)
    for other in (SEED + [0, 1], SEED + [1, 0]):
        assert np.any(noise_cutout(tf.constant(images), other) != result)
    changed = np.any(result != images, axis=-1)
    assert len({one.tobytes() for one in changed}) == 6  # Each image has a place of its own.
