"""Each pixel operation against the official figures, eagerly and inside tf.data."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from datasets import augment, ops

GOLDENS = np.load(Path(__file__).parents[1] / "data" / "augmentation_ops.npz")
PHOTO = GOLDENS["input"]
OP_KEYS = [key for key in GOLDENS if "/" in key and not key.startswith("eval")]


def parse(key):
    name, level = key.split("/")
    return name, float(level.rstrip("+-")), level.endswith("-")


def assert_official(key, result):
    """Equal, with one allowance: Sharpness truncates sums whose float32 order a CPU may choose."""
    assert result.dtype == np.uint8
    difference = np.abs(result.astype(int) - GOLDENS[key])
    if key.startswith("Sharpness"):
        assert (difference > 0).mean() < 0.01 and difference.max() <= 3
    else:
        assert difference.max() == 0


def test_every_op_but_cutout_has_a_golden():
    assert {parse(key)[0] for key in OP_KEYS} == set(augment.OP_NAMES) - {"Cutout"}
    assert len(augment.OP_NAMES) == 16


@pytest.mark.parametrize("key", OP_KEYS)
def test_agrees_with_official_eagerly(key):
    name, magnitude, negate = parse(key)
    assert_official(key, augment.apply_op(name, PHOTO, magnitude, negate).numpy())


def test_agree_with_official_inside_tf_data_at_dynamic_size():
    for name in sorted({parse(key)[0] for key in OP_KEYS}):
        keys = [key for key in OP_KEYS if parse(key)[0] == name]
        signs = tf.data.Dataset.from_generator(
            lambda: [(PHOTO, False), (PHOTO, True)],
            output_signature=(tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.bool)),
        )
        magnitudes = sorted({parse(key)[1] for key in keys})
        results = signs.map(
            lambda image, negate, name=name, magnitudes=magnitudes: [
                augment.apply_op(name, image, magnitude, negate) for magnitude in magnitudes
            ]
        )
        by_sign = list(results.as_numpy_iterator())
        for key in keys:
            _, magnitude, negate = parse(key)
            assert_official(key, by_sign[negate][magnitudes.index(magnitude)])


@pytest.mark.parametrize("name", augment.OP_NAMES)
@pytest.mark.parametrize("magnitude", [0.0, 6.667, 25.0, 30.0])
def test_keeps_type_and_size_at_any_magnitude(name, magnitude):
    image = PHOTO[:47, :33]
    result = augment.apply_op(name, image, magnitude)
    assert result.dtype == tf.uint8 and result.shape == image.shape


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_constant_image_is_left_alone(name):
    flat = np.full((9, 7, 3), (0, 77, 255), np.uint8)
    np.testing.assert_array_equal(augment.apply_op(name, flat, 10.0), flat)


def test_grey_equals_tensorflow():
    colours = np.random.default_rng(0).integers(0, 256, (400, 500, 3)).astype(np.uint8)
    np.testing.assert_array_equal(ops._grey(colours), tf.image.rgb_to_grayscale(colours))


@pytest.mark.parametrize("bits", range(-1, 13))
def test_posterize_oddity(bits):
    kept = bits if 1 <= bits <= 8 else 1
    np.testing.assert_array_equal(ops.posterize(PHOTO, bits), PHOTO >> (8 - kept) << (8 - kept))


@pytest.mark.parametrize("threshold", [0, 128, 255, 256, 384, 640])
def test_solarize_threshold_wraps(threshold):
    wrapped = np.uint8(threshold % 256)
    expected = np.where(wrapped > PHOTO, PHOTO, 255 - PHOTO)
    np.testing.assert_array_equal(ops.solarize(PHOTO, threshold), expected)


@pytest.mark.parametrize("addition", [0, 55, 200, 275])
def test_solarize_add_saturates(addition):
    expected = np.where(PHOTO < 128, np.minimum(PHOTO.astype(int) + addition, 255), PHOTO)
    np.testing.assert_array_equal(ops.solarize_add(PHOTO, addition), expected)


@pytest.mark.parametrize("size", [171, 300])
def test_contrast_level_is_the_pixel_count(size):
    image = np.full((size, size, 3), 100, np.uint8)
    level = min(size * size // 256, 255)
    expected = np.clip(level + 1.9 * (100 - level), 0, 255)
    np.testing.assert_allclose(ops.contrast(image, 1.9).numpy(), expected, atol=1.0)


@pytest.mark.parametrize("center", [(20, 30), (0, 0), (95, 79), (3, 77)])
@pytest.mark.parametrize("half_size", [0, 1, 10, 200])
def test_cutout_fills_the_square_cut_at_the_border(half_size, center):
    row, column = center
    expected = PHOTO.copy()
    rows = slice(max(row - half_size, 0), row + half_size)
    expected[rows, max(column - half_size, 0) : column + half_size] = 128
    np.testing.assert_array_equal(ops.cutout(PHOTO, half_size, center), expected)


def test_geometry_has_the_documented_direction():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 8] = 255  # right of the centre
    assert ops.rotate(image, 90.0)[0, 4, 0] == 255  # counter-clockwise: now above it
    assert ops.translate_x(image, 2.0)[4, 6, 0] == 255
    assert ops.translate_y(image, 1.6)[2, 8, 0] == 255
    assert ops.translate_y(image, 1.6)[8, 0, 0] == ops.FILL
    assert ops.shear_x(image, 0.5)[4, 6, 0] == 255
    assert ops.shear_y(image, 0.5)[0, 8, 0] == 255
