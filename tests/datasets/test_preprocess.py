"""Decoding, evaluation crops against the official figures, rounding, and the limit of pixels."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets import preprocess
from efficientnetv2.hparams.config import EVAL_CROPS

DATA = Path(__file__).parents[1] / "data"
GOLDENS = np.load(DATA / "augmentation_ops.npz")
GOLDFISH = (DATA / "goldfish.jpg").read_bytes()
MEAN = np.array([0.485, 0.456, 0.406]) * 255
STDDEV = np.array([0.229, 0.224, 0.225]) * 255
SEED = tf.constant([3, 4], tf.int64)

# tests/data/formats holds one picture, 24 high and 32 wide, with a gradient in each channel:
Y, X = np.mgrid[:24, :32]
PICTURE = np.stack([X * 8, Y * 10, 255 - (X + Y) * 4], axis=-1)
GREY = (PICTURE @ [0.299, 0.587, 0.114])[..., None].repeat(3, axis=-1)

# name -> (what it shows, mean and greatest allowed difference: quantisation and JPEG loss)
FORMATS = {
    "rgb.png": (PICTURE, 0, 0),
    "alpha.png": (PICTURE, 0, 0),
    "palette.png": (PICTURE, 8, 32),
    "grey.png": (GREY, 1, 1),
    "grey_alpha.png": (GREY, 1, 1),
    "grey16.png": (GREY, 1, 1),
    "rgb.bmp": (PICTURE, 0, 0),
    "alpha.bmp": (PICTURE, 0, 0),
    "palette.bmp": (PICTURE, 12, 48),
    "grey.bmp": (GREY, 1, 1),
    "frames.gif": (PICTURE, 8, 32),  # two frames, the second is the inverse
    "rgb.jpg": (PICTURE, 2, 8),
    "progressive.jpg": (PICTURE, 3, 16),
    "grey.jpg": (GREY, 2, 8),
    "cmyk.jpg": (PICTURE, 2, 8),
}


def read_format(name):
    return (DATA / "formats" / name).read_bytes()


def make_png(pixels):
    return tf.io.encode_png(np.asarray(pixels))


def in_tf_data(function, *elements):
    """What `function` returns for each element inside a parallel tf.data map."""
    dataset = tf.data.Dataset.from_tensor_slices(list(elements))
    return list(dataset.map(function, num_parallel_calls=2).as_numpy_iterator())


def test_no_format_file_is_forgotten():
    files = {path.name for path in (DATA / "formats").iterdir()}
    assert files == set(FORMATS) | {"one_bit.png"}


@pytest.mark.parametrize("name", FORMATS)
def test_decodes(name):
    expected, mean, greatest = FORMATS[name]
    encoded = read_format(name)
    (inside,) = in_tf_data(preprocess.decode_image, encoded)
    for image in (preprocess.decode_image(encoded).numpy(), inside):
        assert image.dtype == np.uint8 and image.shape == (24, 32, 3)
        difference = np.abs(image - expected)
        assert difference.mean() <= mean and difference.max() <= greatest


def test_decodes_one_bit_png_and_16_bit_colour():
    image = preprocess.decode_image(read_format("one_bit.png")).numpy()
    assert set(np.unique(image)) == {0, 255}
    pixels = np.array([[[0, 257 * 99, 65535]]], np.uint16)
    np.testing.assert_array_equal(preprocess.decode_image(make_png(pixels)), [[[0, 99, 255]]])


@pytest.mark.parametrize("name", FORMATS)
def test_both_paths_take_every_format(name):
    encoded = read_format(name)
    expected, mean, _ = FORMATS[name]
    evaluated = preprocess.preprocess_eval(encoded, 16, crop="whole").numpy()
    trained = preprocess.preprocess_train(encoded, 16, SEED, crop_area_min=1.0, flip=False)
    reference = tf.image.resize(expected.astype(np.float32), [16, 16]).numpy()
    assert np.abs(evaluated - reference).mean() <= mean + 1
    np.testing.assert_array_equal(trained, evaluated)  # a whole image: the same pixels
    cropped = preprocess.preprocess_train(encoded, 16, SEED)
    assert cropped.shape == (16, 16, 3) and cropped.dtype == tf.uint8


@pytest.mark.parametrize("content", [b"", b"B", b"no image", b"BM", GOLDFISH[:100]])
def test_what_is_no_image_is_an_error(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess.decode_image(content)


EVAL_CASES = [(f"eval/{size}", size, "v2", "bilinear") for size in (128, 300, 384)]
EVAL_CASES += [(f"eval_v1/{size}", size, "v1", "legacy_bicubic") for size in (224, 300)]


def test_every_evaluation_golden_is_used():
    assert {case[0] for case in EVAL_CASES} == {key for key in GOLDENS if key.startswith("eval")}


@pytest.mark.parametrize("key, size, crop, resize_method", EVAL_CASES)
def test_evaluation_agrees_with_official(key, size, crop, resize_method):
    def evaluate(encoded):
        return preprocess.preprocess_eval(
            encoded, size, crop=crop, resize_method=resize_method, exact=True
        )

    (inside,) = in_tf_data(evaluate, GOLDFISH)
    for exact in (evaluate(GOLDFISH).numpy(), inside):
        assert exact.dtype == np.float32 and exact.shape == (size, size, 3)
        normalised = (exact - 128) / 128 if crop == "v2" else (exact - MEAN) / STDDEV
        np.testing.assert_allclose(normalised[::8, ::8], GOLDENS[key], atol=2e-5)
    rounded = preprocess.preprocess_eval(GOLDFISH, size, crop=crop, resize_method=resize_method)
    assert rounded.dtype == tf.uint8
    assert np.abs(rounded.numpy() - np.clip(exact, 0, 255)).max() <= 0.5


@pytest.mark.parametrize("height, width", [(64, 64), (65, 90), (101, 64), (263, 376)])
@pytest.mark.parametrize("size", [32, 224, 300, 319, 320, 384])
@pytest.mark.parametrize("crop", EVAL_CROPS)
def test_evaluation_window(crop, size, height, width):
    window = preprocess._eval_window(tf.constant([height, width]), size, crop).numpy().tolist()
    side = int(np.float32(size / (size + 32)) * np.float32(min(height, width)))
    expected = {
        "whole": [0, 0, height, width],
        "v1": [(height - side + 1) // 2, (width - side + 1) // 2, side, side],
        "v2": [(height - side) // 2, (width - side) // 2, side, side],
    }
    if size >= 320:  # only the "v2" rule stops cropping
        expected["v2"] = expected["whole"]
    assert window == expected[crop]


@pytest.mark.parametrize("size", [224, 300, 384])
def test_evaluation_crops_then_resizes(size):
    pixels = np.random.default_rng(0).integers(0, 256, (263, 376, 3)).astype(np.uint8)
    side = int(size / (size + 32) * 263)
    top, left = (263 - side) // 2, (376 - side) // 2
    kept = pixels[top : top + side, left : left + side] if size < 320 else pixels
    expected = tf.image.resize(kept, [size, size], antialias=False)
    exact = preprocess.preprocess_eval(make_png(pixels), size, exact=True)
    np.testing.assert_allclose(exact, expected, atol=1e-3)


def test_legacy_bicubic_is_neither_todays_bicubic_nor_clipped_when_exact():
    pixels = np.random.default_rng(0).integers(0, 2, (20, 20, 3)).astype(np.uint8) * 255
    arguments = {"crop": "whole", "resize_method": "legacy_bicubic"}
    exact = preprocess.preprocess_eval(make_png(pixels), 40, exact=True, **arguments).numpy()
    today = tf.image.resize(pixels, [40, 40], method="bicubic").numpy()
    assert exact.min() < -1 and exact.max() > 256 and np.abs(exact - today).max() > 10
    rounded = preprocess.preprocess_eval(make_png(pixels), 40, **arguments).numpy()
    np.testing.assert_array_equal(rounded, np.floor(np.clip(exact + 0.5, 0, 255)))


def test_unknown_choices_name_the_nearest():
    with pytest.raises(UserError, match="'V2'.*'v2'"):
        preprocess.preprocess_eval(GOLDFISH, 64, crop="V2")
    with pytest.raises(UserError, match="'bicubic'.*'legacy_bicubic'"):
        preprocess.preprocess_eval(GOLDFISH, 64, resize_method="bicubic")
    with pytest.raises(UserError, match="'bilinea'.*'bilinear'"):
        preprocess.preprocess_train(GOLDFISH, 64, SEED, resize_method="bilinea")
    with pytest.raises(UserError, match="image_size"):
        preprocess.preprocess_eval(GOLDFISH, 0)
    for area in (0.0, 1.5):
        with pytest.raises(UserError, match="crop_area_min"):
            preprocess.preprocess_train(GOLDFISH, 64, SEED, crop_area_min=area)


def test_halves_are_rounded_up_and_the_rest_to_the_nearest():
    """Two pixels become four: v, a mixture of 3:1, of 1:3, v'."""
    pairs = np.array([[0, 2], [1, 3], [10, 11], [0, 255], [255, 253]], np.uint8)
    expected = [[0, 1, 2, 2], [1, 2, 3, 3], [10, 10, 11, 11], [0, 64, 191, 255]]
    expected += [[255, 255, 254, 253]]  # 254.5 and 253.5
    for pair, row in zip(pairs, expected):
        encoded = make_png(np.broadcast_to(pair[None, :, None], (2, 2, 3)))
        evaluated = preprocess.preprocess_eval(encoded, 4, crop="whole").numpy()
        trained = preprocess.preprocess_train(encoded, 4, SEED, crop_area_min=1.0, flip=False)
        for image in (evaluated, trained.numpy()):
            np.testing.assert_array_equal(image, np.broadcast_to(np.array(row)[:, None], (4, 4, 3)))


@pytest.mark.parametrize("name", ["rgb.jpg", "rgb.png", "rgb.bmp", "frames.gif"])
@pytest.mark.parametrize("fast_decode", [False, True])
def test_larger_images_than_allowed_are_refused(name, fast_decode):
    encoded = read_format(name)
    paths = (
        preprocess.preprocess_eval,
        lambda x, size, max_pixels: preprocess.preprocess_train(
            x, size, SEED, max_pixels=max_pixels, fast_decode=fast_decode
        ),
    )
    for path in paths:
        assert path(encoded, 8, max_pixels=24 * 32).shape == (8, 8, 3)
        for run in (lambda x, path=path: path(x, 8, max_pixels=24 * 32 - 1),):
            with pytest.raises(tf.errors.InvalidArgumentError, match="too large.*24 32"):
                run(encoded)
            with pytest.raises(tf.errors.InvalidArgumentError, match="too large.*24 32"):
                in_tf_data(run, encoded)
