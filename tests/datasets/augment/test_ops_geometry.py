"""What moves pixels, against TensorFlow's own transform of each image with a channel of ones."""

import math
from pathlib import Path

import numpy as np
import official_rules
import pytest
import tensorflow as tf

from efficientnetv2.datasets.augment import ops

PHOTO = np.load(Path(__file__).parents[2] / "data" / "augmentation_ops.npz")["input"]
SIZES = [(1, 1), (1, 9), (9, 1), (2, 2), (31, 33), (32, 17)]
HALVES = [0.5, 1.5, 2.5, 12.5]
FRACTIONS = [7.25, 7.75, 1 / 3, 11.0, 0.49, 100.0]


def batch_of(height, width):
    """Three different images."""
    return np.stack(
        [PHOTO[:height, :width], PHOTO[-height:, -width:], 255 - PHOTO[:height, :width]]
    )


def check(function, argument, matrix_of, size):
    images = batch_of(*size)
    expected = [official_rules.transform(image, matrix_of(image)) for image in images]
    result = function(images, argument)
    assert result.dtype == tf.uint8
    np.testing.assert_array_equal(result, expected)
    if size != SIZES[-1]:  # Tracing takes its time.
        return
    dynamic = tf.function(
        lambda images: function(images, argument),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    np.testing.assert_array_equal(dynamic(images), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rotation(size, sign):
    for degrees in (0.0, 1.7, 30.0, 45.0, 90.0, 180.0, *np.random.default_rng(0).uniform(0, 90, 4)):
        degrees = float(sign * degrees)
        check(ops.rotate, degrees, lambda x, d=degrees: official_rules.rotation(x, d), size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shear(size, sign):
    for slope in (0.0, 0.3, 0.5, 0.9, *np.random.default_rng(1).uniform(0, 1, 4)):
        slope = float(sign * slope)
        check(ops.shear_x, slope, lambda _, s=slope: (1, s, 0, 0, 1, 0), size)
        check(ops.shear_y, slope, lambda _, s=slope: (1, 0, 0, s, 1, 0), size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_translation_by_any_number_of_pixels(size, sign):
    # A float64 next to a half is a half in float32: 0.045 * 100.
    for pixels in (0.0, 0.045 * 100, 0.035 * 100, 30.0, *HALVES, *FRACTIONS):
        pixels = sign * pixels
        check(ops.translate_x, pixels, lambda _, p=pixels: (1, 0, p, 0, 1, 0), size)
        check(ops.translate_y, pixels, lambda _, p=pixels: (1, 0, 0, 0, 1, p), size)


def test_geometry_has_the_documented_direction():
    image = np.zeros((1, 9, 9, 3), np.uint8)
    image[0, 4, 8] = 255  # right of the centre
    assert ops.rotate(image, 90.0)[0, 0, 4, 0] == 255  # counter-clockwise: now above it
    assert ops.translate_x(image, 2.0)[0, 4, 6, 0] == 255
    assert ops.translate_y(image, 1.6)[0, 2, 8, 0] == 255
    assert ops.translate_y(image, 1.6)[0, 8, 0, 0] == ops.FILL == 128
    assert ops.shear_x(image, 0.5)[0, 4, 6, 0] == 255
    assert ops.shear_y(image, 0.5)[0, 0, 8, 0] == 255


def test_more_pixels_than_a_float32_counts_to():
    side = 4097  # 4096 * 4096 is 2 ** 24
    result = ops.rotate(tf.zeros([1, side, side, 3], tf.uint8), 45.0)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert result[0, row, column].numpy().tolist() == [128] * 3
    assert math.isclose(tf.reduce_mean(tf.cast(result == 0, tf.float32)), 0.828, abs_tol=0.01)


@pytest.mark.parametrize("half_size", [0, 1, 10, 200])
def test_cutout_fills_a_square_of_each_image_cut_at_the_border(half_size):
    images = np.stack([PHOTO, 255 - PHOTO, PHOTO[::-1], PHOTO])
    centers = np.int32([(20, 30), (0, 0), (95, 79), (3, 77)])
    expected = [official_rules.cutout(*pair) for pair in zip(images, [half_size] * 4, centers)]
    np.testing.assert_array_equal(ops.cutout(images, half_size, centers), expected)


def test_a_window_of_rows_and_columns():
    start, end = np.int32([(1, 2), (-3, 4), (2, 2)]), np.int32([(3, 3), (1, 9), (2, 5)])
    mask = ops.window_mask(tf.constant([3, 4, 5, 3]), start, end).numpy().reshape(3, 4, 5, 3)
    expected = np.zeros((3, 4, 5, 3), np.uint8)
    expected[0, 1:3, 2:3] = 255
    expected[1, 0:1, 4:5] = 255
    np.testing.assert_array_equal(mask, expected)


def test_what_is_in_the_window_is_replaced():
    images = batch_of(4, 5)
    window = np.zeros(images.shape, np.uint8)
    window[1, 2:, 1:4] = 255
    result = ops.replaced(images, window.reshape(3, 4, 15), images[::-1].reshape(3, 4, 15))
    np.testing.assert_array_equal(result, np.where(window, images[::-1], images))
