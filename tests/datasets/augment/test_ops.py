"""The pixel operations, on batches: against Pillow, TensorFlow and the official rules."""

from pathlib import Path

import numpy as np
import official_rules
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from efficientnetv2.datasets.augment import ops

PHOTO = np.load(Path(__file__).parents[2] / "data" / "augmentation_ops.npz")["input"]
RNG = np.random.default_rng(0)
NARROW = RNG.integers(90, 97, PHOTO.shape).astype(np.uint8)
NOISE = RNG.integers(0, 256, PHOTO.shape).astype(np.uint8)
FLAT = np.full(PHOTO.shape, (0, 77, 255), np.uint8)
BATCH = np.stack([PHOTO, NARROW, NOISE, FLAT])


def by_pillow(function):
    return np.stack([np.asarray(function(Image.fromarray(image))) for image in BATCH])


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (ops.invert, ImageOps.invert),
        (ops.equalize, ImageOps.equalize),
        *((lambda x, b=b: ops.posterize(x, b), lambda x, b=b: ImageOps.posterize(x, b))
          for b in (1, 2, 4, 7, 8)),
        *((lambda x, t=t: ops.solarize(x, t), lambda x, t=t: ImageOps.solarize(x, t))
          for t in (0, 1, 128, 255, 256)),
    ],
)  # fmt: skip
def test_agrees_with_pillow(ours, theirs):
    result = ours(BATCH)
    assert result.dtype == tf.uint8
    np.testing.assert_array_equal(result, by_pillow(theirs))


def test_auto_contrast_agrees_with_pillow_but_for_its_rounding():
    difference = ops.auto_contrast(BATCH).numpy().astype(int) - by_pillow(ImageOps.autocontrast)
    assert np.abs(difference).max() <= 1  # Pillow has 64-bit floats
    expected = [official_rules.auto_contrast(image) for image in BATCH]
    np.testing.assert_array_equal(ops.auto_contrast(BATCH), expected)


def test_each_image_and_channel_is_stretched_by_its_own_range():
    batch = np.zeros((2, 1, 2, 3), np.uint8)
    batch[0, 0] = (10, 20, 30), (20, 20, 255)
    batch[1, 0] = (0, 1, 2), (255, 2, 2)
    stretched = ops.auto_contrast(batch).numpy()
    assert stretched[0, 0].tolist() == [[0, 20, 0], [255, 20, 255]]
    assert stretched[1, 0].tolist() == [[0, 0, 2], [255, 255, 2]]


@pytest.mark.parametrize("name", ["auto_contrast", "equalize"])
def test_a_constant_image_is_left_alone(name):
    np.testing.assert_array_equal(getattr(ops, name)(BATCH)[3], FLAT)


def test_grey_equals_tensorflow():
    corners = np.stack(np.meshgrid(*[[0, 1, 127, 128, 254, 255]] * 3), axis=-1).reshape(1, 36, 6, 3)
    for colours in (corners.astype(np.uint8), NOISE[np.newaxis]):
        expected = tf.image.rgb_to_grayscale(colours)[..., 0]
        np.testing.assert_array_equal(ops.grey(tf.constant(colours)), expected)


@pytest.mark.parametrize("bits", [-3, 0, 9, 12])
def test_posterize_oddity(bits):
    np.testing.assert_array_equal(ops.posterize(BATCH, bits), BATCH & 128)


@pytest.mark.parametrize("addition", [0, 55, 200, 275, 330])
def test_solarize_add_saturates(addition):
    expected = np.where(BATCH < 128, np.minimum(BATCH.astype(int) + addition, 255), BATCH)
    np.testing.assert_array_equal(ops.solarize_add(BATCH, addition), expected)


@pytest.mark.parametrize("factor", [0.1, 0.27, 1.0, 1.9, 5.5])
def test_color_blends_the_grey_image(factor):
    expected = [
        official_rules.blend(official_rules.grey(image)[..., None], image, factor)
        for image in BATCH
    ]
    np.testing.assert_array_equal(ops.color(BATCH, factor), expected)


@pytest.mark.parametrize("factor", [0.0, 0.27, 1.0, 1.9, 5.5])
def test_brightness_blends_black(factor):
    expected = np.minimum(np.float32(BATCH) * np.float32(factor), 255).astype(np.uint8)
    np.testing.assert_array_equal(ops.brightness(BATCH, factor), expected)


@pytest.mark.parametrize("size, level", [(16, 1), (171, 114), (192, 144), (255, 254), (300, 255)])
def test_the_official_contrast_level_is_the_number_of_pixels(size, level):
    assert ops.official_contrast_level(np.zeros((2, size, size, 3), np.uint8)) == level


def test_the_mean_grey_is_that_of_each_image():
    expected = [np.floor(official_rules.grey(image).mean() + 0.5) for image in BATCH]
    level = ops.mean_grey(tf.constant(BATCH))
    assert level.shape == [4, 1, 1]
    np.testing.assert_array_equal(level[:, 0, 0], expected)


@pytest.mark.parametrize("factor", [0.27, 1.0, 1.9])
def test_contrast_blends_a_level_for_all_or_for_each(factor):
    levels = np.float32([10, 100, 128, 255])
    expected = [official_rules.blend(*pair, factor) for pair in zip(levels, BATCH)]
    result = ops.contrast(BATCH, factor, levels[:, np.newaxis, np.newaxis])
    np.testing.assert_array_equal(result, expected)
    for image, one, level in zip(BATCH, expected, levels):
        np.testing.assert_array_equal(ops.contrast(image[np.newaxis], factor, level)[0], one)


@pytest.mark.parametrize("factor", [0.0, 0.27, 1.0, 1.9])
def test_sharpness_blends_the_smoothed_image_inside_the_border(factor):
    """With an allowance: the filter's float32 sums, then cut off, may be one below."""
    result = ops.sharpness(BATCH, factor).numpy().astype(int)
    expected = np.stack([official_rules.sharpness(image, factor) for image in BATCH])
    difference = np.abs(result - expected)
    assert (difference > 0).mean() < 0.02
    assert difference.max() <= abs(1 - factor) + 1
    for border in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        np.testing.assert_array_equal(result[border], BATCH[border])


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2), (2, 5)])
def test_sharpness_leaves_what_is_all_border(size):
    image = BATCH[:, : size[0], : size[1]]
    np.testing.assert_array_equal(ops.sharpness(image, 2.0), image)


def test_operations_take_batches_of_none_and_of_dynamic_size():
    """As a group of which no image drew the operation."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def apply(images):
        level = ops.mean_grey(images)
        results = [ops.auto_contrast(images), ops.equalize(images), ops.invert(images)]
        results += [ops.posterize(images, 4), ops.solarize(images, 99), ops.color(images, 1.9)]
        results += [ops.solarize_add(images, 55), ops.contrast(images, 1.9, level)]
        return results + [ops.brightness(images, 1.9), ops.sharpness(images, 1.9)]

    for batch in (BATCH, BATCH[:0]):
        results = apply(batch)
        assert len(results) == 10 and all(result.shape == batch.shape for result in results)
    np.testing.assert_array_equal(apply(BATCH)[1], ops.equalize(BATCH))
