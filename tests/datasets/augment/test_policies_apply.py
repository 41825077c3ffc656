"""One operation by name, and a batch in which each image gets what was drawn for it."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.augment import policies
from efficientnetv2.datasets.augment.policies import (
    OP_SETS,
    Action,
    Draws,
    Policy,
    auto_augment,
    rand_augment,
)

GOLDENS = np.load(Path(__file__).parents[2] / "data" / "augmentation_ops.npz")
PHOTO = GOLDENS["input"]
OP_KEYS = [key for key in GOLDENS if "/" in key and not key.startswith("eval")]
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 40, 3)).astype(np.uint8)
SETS = tuple(OP_SETS)


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
    assert {parse(key)[0] for key in OP_KEYS} == set(policies.OP_NAMES) - {"Cutout"}


@pytest.mark.parametrize("key", OP_KEYS)
def test_agrees_with_official_eagerly(key):
    assert_official(key, policies.apply_op(parse(key)[0], PHOTO, *parse(key)[1:]).numpy())


def test_agrees_with_official_inside_tf_data_at_dynamic_size():
    for name in sorted({parse(key)[0] for key in OP_KEYS}):
        keys = [key for key in OP_KEYS if parse(key)[0] == name]
        signs = tf.data.Dataset.from_generator(
            lambda: [(PHOTO, False), (PHOTO, True)],
            output_signature=(tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.bool)),
        )
        magnitudes = sorted({parse(key)[1] for key in keys})
        results = signs.map(
            lambda image, negate, name=name, magnitudes=magnitudes: [
                policies.apply_op(name, image, magnitude, negate) for magnitude in magnitudes
            ]
        )
        by_sign = list(results.as_numpy_iterator())
        for key in keys:
            _, magnitude, negate = parse(key)
            assert_official(key, by_sign[negate][magnitudes.index(magnitude)])


def test_agrees_with_official_inside_a_batch_of_several_images():
    actions = [Action(name, m, -1.0 if negate else 1.0) for name, m, negate in map(parse, OP_KEYS)]
    order = np.random.default_rng(1).permutation(len(actions))
    others = np.random.default_rng(2).integers(0, 256, (len(actions), *PHOTO.shape), np.uint8)
    images = np.concatenate([np.stack([PHOTO] * len(actions)), others])
    drawn = np.concatenate([order, order[::-1]]).astype(np.int32)
    result = apply_actions(actions, drawn, images, "official")
    for index, image in zip(order, result):
        assert_official(OP_KEYS[index], image)


def apply_actions(actions, drawn, images, op_set, centers=None, **spec):
    """Applies action `drawn[i]` to image i, eagerly, or in tf.data if `spec` has the shape."""
    if centers is None:
        centers = np.full((len(drawn), 2), 0.5)
    draws = Draws(tf.constant(drawn)[:, None], tf.constant(centers, tf.float32)[:, None])
    policy = Policy(tuple(actions), 1, None)
    if not spec:
        return policies.apply_policy(policy, tf.constant(images), draws, op_set).numpy()
    dataset = tf.data.Dataset.from_generator(
        lambda: [images], output_signature=tf.TensorSpec(dtype=tf.uint8, **spec)
    ).map(lambda batch: policies.apply_policy(policy, batch, draws, op_set))
    return next(dataset.as_numpy_iterator())


@pytest.mark.parametrize("op_set", SETS)
@pytest.mark.parametrize("size", [(41, 37), (1, 6), (2, 1)])
def test_each_image_of_a_batch_gets_what_it_gets_alone(op_set, size):
    """All operations, both signs; half pixels and fractions of one: 7.25 and 12.5 px; no action."""
    rng = np.random.default_rng(3)
    actions = [Action()]
    for name in policies.OP_NAMES:
        for sign in (1.0, -1.0):
            actions += [Action(name, m, sign) for m in (0.725, 1.25)]
            actions.append(Action(name, 20.0, sign, 5.75, 6.0))
    drawn = rng.permutation(np.tile(np.arange(len(actions)), 2)).astype(np.int32)
    images = rng.integers(0, 256, (len(drawn), *size, 3)).astype(np.uint8)
    images[::2] //= 2  # Each has a histogram, a mean and a range of its own.
    images[::3] += 60
    centers = rng.random((len(drawn), 2))
    batch = apply_actions(actions, drawn, images, op_set, centers)
    for image, index, center, result in zip(images, drawn, centers, batch):
        name, magnitude, sign, *consts = actions[index]
        alone = image
        if name is not None:
            alone = policies.apply_op(
                name,
                image,
                magnitude,
                sign < 0,
                op_set=op_set,
                cutout_center=(np.float32(center) * np.float32(size)).astype(int),
                translate_const=consts[0],
                cutout_const=consts[1],
            ).numpy()
        np.testing.assert_array_equal(result, alone, str(actions[index]))
    if op_set == "official" and size == (41, 37):
        some = drawn % 3 == 2  # One magnitude: tracing takes its time.
        actions = [action if index % 3 == 2 else Action() for index, action in enumerate(actions)]
        arguments = actions, drawn[some], images[some], op_set, centers[some]
        inside = apply_actions(*arguments, shape=[None, *size, 3])
        np.testing.assert_array_equal(inside, batch[some])


@pytest.mark.parametrize("op_set", SETS)
def test_the_size_may_be_dynamic(op_set):
    def apply(image):
        return [
            policies.apply_op(name, image, magnitude, negate, op_set=op_set)
            for name in policies.OP_NAMES
            for magnitude in (1.25, 10.0, 15.0)
            for negate in (False, True)
        ]

    spec = tf.TensorSpec([None, None, 3], tf.uint8)
    images = tf.data.Dataset.from_generator(lambda: [IMAGE, PHOTO[:45, :33]], output_signature=spec)
    for image, results in zip((IMAGE, PHOTO[:45, :33]), images.map(apply).as_numpy_iterator()):
        for inside, outside in zip(results, apply(image)):
            np.testing.assert_array_equal(inside, outside)


def test_layers_are_applied_one_after_the_other():
    policy = Policy((Action("Posterize", 10.0), Action("Rotate", 10.0, -1.0)), 2, None)
    draws = Draws(tf.constant([[0, 1], [1, 0]]), tf.zeros([2, 2, 2]))
    result = policies.apply_policy(policy, tf.constant(np.stack([IMAGE, IMAGE])), draws, "official")
    for image, steps in zip(result, ((0, 1), (1, 0))):
        expected = IMAGE
        for step in steps:
            name = policy.actions[step].op
            expected = policies.apply_op(name, expected, 10.0, name == "Rotate")
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("op_set", SETS)
@pytest.mark.parametrize("make", [auto_augment, lambda **settings: rand_augment(9.0, **settings)])
def test_a_batch_is_the_same_eagerly_and_inside_tf_data(make, op_set):
    policy = make(op_set=op_set)
    images = np.random.default_rng(4).integers(0, 256, (24, 48, 40, 3)).astype(np.uint8)

    def augmented(images):
        return policies.apply_policy(policy, images, policy.draw(24, tf.constant([7, 8])), op_set)

    dataset = tf.data.Dataset.from_tensors(images).repeat(3).map(augmented, num_parallel_calls=2)
    assert dataset.element_spec == tf.TensorSpec([24, 48, 40, 3], tf.uint8)
    eager = augmented(tf.constant(images)).numpy()
    for inside in dataset.as_numpy_iterator():
        np.testing.assert_array_equal(inside, eager)
    assert np.any(eager != images, axis=(1, 2, 3)).sum() > 12


@pytest.mark.parametrize(
    "slip, nearest",
    [("Autocontrast", "AutoContrast"), ("shearx", "ShearX"), ("Rotation", "Rotate")],
)
def test_unknown_name_names_the_nearest(slip, nearest):
    with pytest.raises(UserError, match=f"{slip}.*{nearest}"):
        policies.apply_op(slip, IMAGE, 10.0)


def test_unknown_set():
    with pytest.raises(UserError, match="official, corrected.*'mended'"):
        policies.apply_op("Invert", IMAGE, 10.0, op_set="mended")


@pytest.mark.parametrize("magnitude", [-1.0, 30.1, float("nan")])
def test_magnitude_out_of_range(magnitude):
    with pytest.raises(UserError, match="magnitude"):
        policies.apply_op("Invert", IMAGE, magnitude)


@pytest.mark.parametrize("image", [IMAGE.astype(np.float32), IMAGE[None], IMAGE[..., :1]])
def test_only_uint8_rgb_images(image):
    with pytest.raises(UserError, match="uint8"):
        policies.apply_op("Invert", image, 10.0)


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_translate_const_is_the_distance_in_pixels_at_ten(name):
    axis = {"TranslateX": 1, "TranslateY": 0}[name]
    for negate in (False, True):
        result = policies.apply_op(name, IMAGE, 5.0, negate, translate_const=12.0).numpy()
        expected = np.roll(IMAGE, 6 if negate else -6, axis)
        filled = np.moveaxis(expected, axis, 0)
        filled[slice(None, 6) if negate else slice(-6, None)] = 128
        np.testing.assert_array_equal(result, expected)


def test_cutout_const_and_centre():
    result = policies.apply_op("Cutout", IMAGE, 5.0, cutout_const=16.0).numpy()
    expected = IMAGE.copy()
    expected[16:32, 12:28] = 128  # half size 8 about the middle (24, 20)
    np.testing.assert_array_equal(result, expected)
    corner = policies.apply_op(
        "Cutout", IMAGE, 5.0, cutout_center=(0, 0), cutout_const=16.0
    ).numpy()
    expected = IMAGE.copy()
    expected[:8, :8] = 128
    np.testing.assert_array_equal(corner, expected)


def test_default_constants_are_official():
    wide = np.random.default_rng(1).integers(0, 256, (1, 150, 3)).astype(np.uint8)
    moved, cut = np.full_like(wide, 128), wide.copy()
    moved[:, :50] = wide[:, 100:]
    cut[:, 75 - 40 : 75 + 40] = 128
    for name, expected in (("TranslateX", moved), ("Cutout", cut)):
        np.testing.assert_array_equal(policies.apply_op(name, wide, 10.0), expected)
        drawn = apply_actions(rand_augment(10.0).actions, [index_of(name)], wide[None], "official")
        np.testing.assert_array_equal(drawn[0], expected)


def index_of(name):
    return [action.op for action in rand_augment(10.0).actions].index(name)
