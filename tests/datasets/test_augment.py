"""RandAugment: names, strengths, draws."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from datasets import augment
from hparams import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 40, 3)).astype(np.uint8)


def seed_of(index):
    return tf.constant([7, index], tf.int64)


def make_draws(name, negate=False, center=(0.5, 0.5)):
    return augment.Draws(
        op=tf.constant([augment.OP_NAMES.index(name)]),
        negate=tf.constant([negate]),
        center=tf.constant([center]),
    )


@pytest.mark.parametrize(
    "slip, nearest",
    [("Autocontrast", "AutoContrast"), ("shearx", "ShearX"), ("Rotation", "Rotate")],
)
def test_unknown_name_names_the_nearest(slip, nearest):
    with pytest.raises(UserError, match=f"{slip}.*{nearest}"):
        augment.apply_op(slip, IMAGE, 10.0)


@pytest.mark.parametrize("magnitude", [-1.0, 30.1, float("nan")])
def test_magnitude_out_of_range(magnitude):
    with pytest.raises(UserError, match="magnitude"):
        augment.apply_op("Invert", IMAGE, magnitude)
    with pytest.raises(UserError, match="magnitude"):
        augment.rand_augment(IMAGE, seed_of(0), magnitude)


@pytest.mark.parametrize("image", [IMAGE.astype(np.float32), IMAGE[None], IMAGE[..., :1]])
def test_only_uint8_rgb_images(image):
    with pytest.raises(UserError, match="uint8"):
        augment.rand_augment(image, seed_of(0), 10.0)


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_translate_const_is_the_distance_in_pixels_at_ten(name):
    axis = {"TranslateX": 1, "TranslateY": 0}[name]
    for negate in (False, True):
        result = augment.apply_op(name, IMAGE, 5.0, negate, translate_const=12.0).numpy()
        expected = np.roll(IMAGE, 6 if negate else -6, axis)
        filled = np.moveaxis(expected, axis, 0)
        filled[slice(None, 6) if negate else slice(-6, None)] = 128
        np.testing.assert_array_equal(result, expected)


def test_cutout_const_and_centre():
    result = augment.apply_op("Cutout", IMAGE, 5.0, cutout_const=16.0).numpy()
    expected = IMAGE.copy()
    expected[16:32, 12:28] = 128  # half size 8 about the middle (24, 20)
    np.testing.assert_array_equal(result, expected)
    corner = augment.apply_op("Cutout", IMAGE, 5.0, cutout_center=(0, 0), cutout_const=16.0).numpy()
    expected = IMAGE.copy()
    expected[:8, :8] = 128
    np.testing.assert_array_equal(corner, expected)


def test_default_constants_are_official():
    wide = np.random.default_rng(1).integers(0, 256, (1, 150, 3)).astype(np.uint8)
    moved, cut = np.full_like(wide, 128), wide.copy()
    moved[:, :50] = wide[:, 100:]
    cut[:, 75 - 40 : 75 + 40] = 128
    for name, expected in (("TranslateX", moved), ("Cutout", cut)):
        np.testing.assert_array_equal(augment.apply_op(name, wide, 10.0), expected)
        drawn = augment.rand_augment(wide, make_draws(name), 10.0)
        np.testing.assert_array_equal(drawn, expected)


def test_draws_are_uniform_over_ops_and_signs_and_centres():
    seeds = tf.data.Dataset.range(2000).map(lambda i: augment.draw_rand_augment([3, i], 2))
    op, negate, center = (np.concatenate(parts) for parts in zip(*list(seeds), strict=True))
    counts = collections.Counter(op.tolist())
    assert set(counts) == set(range(16))
    assert min(counts.values()) > 180 and max(counts.values()) < 320  # 250 expected
    assert 0.45 < negate.mean() < 0.55
    assert center.min() >= 0.0 and center.max() < 1.0
    np.testing.assert_allclose(center.mean(axis=0), 0.5, atol=0.03)
    assert abs(np.corrcoef(op[0::2], op[1::2])[0, 1]) < 0.1  # layers are independent


@pytest.mark.parametrize("name", augment.OP_NAMES)
def test_every_op_is_reached_by_its_draw(name):
    for negate in (False, True):
        drawn = augment.rand_augment(IMAGE, make_draws(name, negate), 8.0, translate_const=20.0)
        named = augment.apply_op(name, IMAGE, 8.0, negate, translate_const=20.0)
        np.testing.assert_array_equal(drawn, named)


def test_cutout_goes_where_drawn():
    result = augment.rand_augment(
        IMAGE, make_draws("Cutout", center=(0.25, 0.75)), 10.0, cutout_const=4.0
    ).numpy()
    expected = IMAGE.copy()
    expected[8:16, 26:34] = 128  # about (0.25 * 48, 0.75 * 40)
    np.testing.assert_array_equal(result, expected)


def test_layers_are_applied_one_after_the_other():
    first, second = make_draws("Posterize"), make_draws("Rotate", negate=True)
    both = augment.Draws(*(tf.concat(pair, axis=0) for pair in zip(first, second, strict=True)))
    expected = augment.apply_op("Posterize", IMAGE, 10.0)
    expected = augment.apply_op("Rotate", expected, 10.0, True)
    np.testing.assert_array_equal(augment.rand_augment(IMAGE, both, 10.0), expected)


def test_a_function_of_the_seed_eagerly_and_inside_tf_data():
    def augmented(index):
        return augment.rand_augment(IMAGE, tf.stack([7, index]), 9.0, translate_const=20.0)

    indices = tf.data.Dataset.range(40)
    serial = list(indices.map(augmented).as_numpy_iterator())
    parallel = list(indices.map(augmented, num_parallel_calls=2).as_numpy_iterator())
    np.testing.assert_array_equal(serial, parallel)
    for index in (0, 17, 39):
        eager = augmented(tf.constant(index, tf.int64))
        np.testing.assert_array_equal(eager, serial[index])
    assert len({image.tobytes() for image in serial}) > 30  # seeds differ, so do images


def test_number_of_layers():
    assert augment.draw_rand_augment(seed_of(0), 3).op.shape == [3]
    unchanged = augment.rand_augment(IMAGE, seed_of(0), 10.0, num_layers=0)
    np.testing.assert_array_equal(unchanged, IMAGE)
    once = augment.rand_augment(IMAGE, seed_of(5), 10.0, num_layers=1)
    draws = augment.draw_rand_augment(seed_of(5), 1)
    np.testing.assert_array_equal(once, augment.rand_augment(IMAGE, draws, 10.0))


def test_static_size_is_kept():
    static = tf.data.Dataset.from_tensors(IMAGE)
    spec = static.map(lambda image: augment.rand_augment(image, [1, 2], 5.0)).element_spec
    assert spec == tf.TensorSpec([48, 40, 3], tf.uint8)
