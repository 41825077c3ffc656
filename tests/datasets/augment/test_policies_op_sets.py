"""What a magnitude means: the official set bug for bug, the corrected one by its properties."""

from pathlib import Path

import numpy as np
import official_rules
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from efficientnetv2.datasets.augment import policies
from efficientnetv2.datasets.augment.policies import apply_op

PHOTO = np.load(Path(__file__).parents[2] / "data" / "augmentation_ops.npz")["input"]
RNG = np.random.default_rng(0)
NO_MAGNITUDE = ("AutoContrast", "Equalize", "Invert")
ENHANCEMENTS = ("Color", "Contrast", "Brightness", "Sharpness")
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
# The specification's table, and fractional magnitudes of stages.
MAGNITUDES = (0.0, 2.5, 5.0, 6.667, 10.0, 35 / 3, 15.0, 20.0, 22.6, 25.0, 30.0)


def corrected(name, image, magnitude, negate=False, **arguments):
    return apply_op(name, image, magnitude, negate, op_set="corrected", **arguments).numpy()


def test_both_sets_have_the_sixteen_operations():
    assert set(policies.OFFICIAL) == set(policies.CORRECTED) == set(policies.OP_NAMES)
    assert len(policies.OP_NAMES) == 16
    assert set(policies.SIGNED["official"]) == set(MOVING)
    assert set(policies.SIGNED["corrected"]) == {*MOVING, *ENHANCEMENTS}


@pytest.mark.parametrize("name", policies.OP_NAMES)
def test_the_official_set_is_what_the_specification_tells(name):
    narrow = RNG.integers(60, 200, (31, 45, 3)).astype(np.uint8)
    large = np.tile(PHOTO, (3, 3, 1))[:270, :230]  # The contrast's level is white.
    for image in (PHOTO, narrow, large):
        for magnitude in (*MAGNITUDES, *RNG.uniform(0, 30, 3)):
            for sign in (1, -1):
                center = tuple(int(side * share) for side, share in zip(image.shape, RNG.random(2)))
                consts = (100.0, 40.0) if magnitude <= 15 else (12.5, 10.0)
                result = apply_op(
                    name,
                    image,
                    float(magnitude),
                    sign < 0,
                    translate_const=consts[0],
                    cutout_const=consts[1],
                    cutout_center=center,
                )
                expected = official_rules.apply(name, image, magnitude, sign, *consts, center)
                difference = np.abs(result.numpy().astype(int) - expected)
                # Of Sharpness, float32 sums are cut off: a level, times the factor.
                allowed = abs(magnitude * 0.18 - 0.9) + 1 if name == "Sharpness" else 0
                assert difference.max() <= allowed, (magnitude, sign, consts)
                assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("Posterize", {5: 2, 10: 4, 15: 6, 20: 8, 6.667: 2}),
        ("Solarize", {5: 128, 10: 256, 15: 384, 20: 512, 6.667: 170}),
        ("SolarizeAdd", {5: 55, 10: 110, 15: 165, 20: 220, 6.667: 73}),
        ("Cutout", {5: 20, 10: 40, 15: 60, 20: 80, 6.667: 26}),
    ],
)
def test_integers_of_the_official_set(name, arguments):
    nominal = {"Posterize": 4, "Solarize": 256, "SolarizeAdd": 110, "Cutout": 40}[name]
    for magnitude, expected in arguments.items():
        strength = policies.Strength(magnitude, 1.0, 100.0, 40.0, 300, tf.zeros([1, 2], tf.int32))
        assert strength.integer(nominal) == expected


@pytest.mark.parametrize("name", sorted(set(policies.OP_NAMES) - set(NO_MAGNITUDE)))
@pytest.mark.parametrize("negate", [False, True])
def test_corrected_is_the_identity_at_zero(name, negate):
    for image in (PHOTO, PHOTO[:47, :33]):
        np.testing.assert_array_equal(corrected(name, image, 0.0, negate), image)


@pytest.mark.parametrize("name", ["Posterize", "Solarize", "SolarizeAdd", "Cutout", *ENHANCEMENTS])
@pytest.mark.parametrize("negate", [False, True])
def test_corrected_grows_with_the_magnitude(name, negate):
    """By the mean absolute difference from the photo."""
    distances = [
        np.abs(corrected(name, PHOTO, magnitude, negate).astype(int) - PHOTO).mean()
        for magnitude in np.linspace(0, 30, 31).tolist()
    ]
    assert np.all(np.diff(distances) >= 0)
    assert distances[0] == 0 and distances[-1] > distances[15] > distances[5] > 0


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("negate", [False, True])
def test_corrected_moves_further_with_the_magnitude(name, negate):
    """By the mean distance of the middle's pixels, or by how much is moved out of the image."""
    y, x = np.mgrid[:100, :100]
    middle = (y - 49.5) ** 2 + (x - 49.5) ** 2 < 48**2
    position = np.stack([y, x, np.zeros_like(x)], axis=-1).astype(np.uint8)
    moved = []
    for magnitude in np.linspace(0, 30, 25).tolist():
        result = corrected(name, position, magnitude, negate).astype(int)
        inside = result[..., 2] == 0
        if name == "Rotate":
            assert inside[middle].all()
            moved.append(np.hypot(*np.moveaxis((result - position)[middle][:, :2], -1, 0)).mean())
        else:
            moved.append(100 * (~inside).mean())
    assert np.all(np.diff(moved) > 0) and moved[0] == 0
    # 90 degrees; a slope of 0.9; 300 of 300 pixels.
    expected = {"Rotate": 2 * 32 * np.sin(np.pi / 4), "ShearX": 45, "ShearY": 45}
    assert moved[-1] == pytest.approx(expected.get(name, 100), abs=1)


def test_enhancements_of_the_corrected_set_go_both_ways():
    darker, brighter = (corrected("Brightness", PHOTO, 5.0, negate).mean() for negate in (1, 0))
    assert darker < PHOTO.mean() < brighter
    dull, vivid = (np.ptp(corrected("Color", PHOTO, 5.0, n), axis=-1).mean() for n in (1, 0))
    assert dull < np.ptp(PHOTO, axis=-1).mean() < vivid
    for name, change in (("Contrast", np.std), ("Sharpness", lambda x: np.diff(x, axis=0).std())):
        less, more = (change(corrected(name, PHOTO, 5.0, n).astype(int)) for n in (True, False))
        assert less < change(PHOTO.astype(int)) < more
    for negate, factor in ((False, 1.9), (True, 1 / 1.9)):
        expected = np.minimum(np.float32(PHOTO) * np.float32(factor), 255).astype(np.uint8)
        np.testing.assert_array_equal(corrected("Brightness", PHOTO, 10.0, negate), expected)


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("size", [(96, 80), (300, 290)])
def test_corrected_contrast_is_about_the_mean_grey(negate, size):
    image = np.resize(PHOTO, (*size, 3))
    for magnitude in (2.0, 10.0, 30.0):
        factor = (1 + 0.09 * magnitude) ** (-1 if negate else 1)
        theirs = np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))
        difference = np.abs(corrected("Contrast", image, magnitude, negate).astype(int) - theirs)
        assert difference.max() <= abs(factor - 1) + 1  # Their mean may be one off.


def test_corrected_posterize_and_solarize_thresholds():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for magnitude, bits in {0: 8, 3: 8, 5: 7, 10: 7, 15: 6, 20: 5, 25: 5, 30: 4}.items():
        expected = levels >> (8 - bits) << (8 - bits)
        np.testing.assert_array_equal(corrected("Posterize", levels, float(magnitude)), expected)
    for magnitude, least in {0: 256, 5: 213, 10: 171, 15: 128, 20: 85, 30: 0}.items():
        expected = np.where(levels >= least, 255 - levels, levels)
        np.testing.assert_array_equal(corrected("Solarize", levels, float(magnitude)), expected)


@pytest.mark.parametrize("magnitude", [1.0, 5.0, 20 / 3, 10.0, 15.0])
def test_corrected_has_the_same_share_at_every_size(magnitude):
    for name, share in (
        ("TranslateX", magnitude / 30),
        ("TranslateY", magnitude / 30),
        ("Cutout", (magnitude * 8 / 300) ** 2),
    ):
        for size in (100, 128, 225, 300, 380):
            filled = corrected(name, np.zeros((size, size, 3), np.uint8), magnitude) == 128
            assert filled.mean() == pytest.approx(share, abs=2.5 / size), size
    # Of an image that is no square, the shorter side counts.
    wide = corrected("TranslateX", np.zeros((60, 200, 3), np.uint8), 10.0) == 128
    assert wide.mean() == 20 / 200


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY", "Cutout"])
@pytest.mark.parametrize("negate", [False, True])
def test_corrected_is_official_at_the_reference_size(name, negate):
    image = np.resize(PHOTO, (300, 300, 3))
    for magnitude in MAGNITUDES:
        np.testing.assert_array_equal(
            corrected(name, image, magnitude, negate), apply_op(name, image, magnitude, negate)
        )


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "SolarizeAdd", *NO_MAGNITUDE])
def test_what_had_no_defect_is_official_at_every_size(name):
    for image in (PHOTO, np.resize(PHOTO, (150, 131, 3))):
        for negate in (False, True):
            np.testing.assert_array_equal(
                corrected(name, image, 7.0, negate), apply_op(name, image, 7.0, negate)
            )
