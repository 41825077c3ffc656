"""Decoding, evaluation crops against the official figures, random crops and flips."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from datasets import preprocess
from hparams import UserError
from hparams.config import EVAL_CROPS

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
    np.testing.assert_array_equal(rounded, np.clip(np.round(exact), 0, 255))


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


@pytest.mark.parametrize("size", [(263, 376), (100, 100), (60, 400)])
@pytest.mark.parametrize(
    "resize_method, area_min", [("bilinear", 0.05), ("bilinear", 0.5), ("legacy_bicubic", 0.08)]
)
def test_drawn_crops_keep_their_bounds(resize_method, area_min, size):
    height, width = size
    windows = tf.data.Dataset.range(400).map(
        lambda i: preprocess.draw_crop(
            tf.constant(size),
            64,
            tf.stack([1, i]),
            crop_area_min=area_min,
            resize_method=resize_method,
        )
    )
    windows = np.array(list(windows.as_numpy_iterator()))
    top, left, rows, columns = windows.T
    assert top.min() >= 0 and left.min() >= 0
    assert np.all(top + rows <= height) and np.all(left + columns <= width)
    # Except where no window was found: then the whole image, or the legacy central square.
    center = preprocess._center_window(tf.constant(size), 64, round_up=True).numpy()
    fallback = center if resize_method == "legacy_bicubic" else [0, 0, height, width]
    drawn = np.any(windows != fallback, axis=1)
    if area_min == 0.5 and size == (60, 400):  # no window of such a shape fits
        assert not drawn.any()
        return
    assert drawn.mean() > (0.3 if size == (60, 400) else 0.7)
    share = rows * columns / (height * width)
    side_error = 1.0 / rows + 1.0 / columns  # sides are integers
    assert np.all((share >= area_min * (1 - 2 * side_error))[drawn]) and share.max() <= 1.0
    ratio = columns / rows
    assert np.all(((ratio > 0.75 * (1 - side_error)) & (ratio < 1.34 * (1 + side_error)))[drawn])
    if resize_method == "bilinear" and area_min == 0.05 and size != (60, 400):
        assert share[drawn].min() < 0.1 and share[drawn].max() > 0.6


@pytest.mark.parametrize("resize_method", preprocess.RESIZE_METHODS)
def test_crop_area_of_one_is_the_whole_image(resize_method):
    window = preprocess.draw_crop(
        tf.constant([50, 70]), 64, SEED, crop_area_min=1.0, resize_method=resize_method
    )
    np.testing.assert_array_equal(window, [0, 0, 50, 70])


@pytest.mark.parametrize("name", ["goldfish.jpg", "png"])
def test_training_crop_is_the_drawn_window(name):
    encoded = GOLDFISH
    pixels = preprocess.decode_image(GOLDFISH)
    if name == "png":
        encoded = make_png(pixels)
    crop_seed = tf.random.experimental.stateless_split(SEED, 2)[0]
    top, left, rows, columns = preprocess.draw_crop(
        tf.constant([263, 376]), 48, crop_seed, crop_area_min=0.05
    ).numpy()
    expected = tf.image.resize(pixels[top : top + rows, left : left + columns], [48, 48])
    result = preprocess.preprocess_train(encoded, 48, SEED, flip=False)
    assert np.abs(tf.cast(result, tf.float32) - expected).max() <= 0.5 + 1e-3
    assert (rows, columns) != (263, 376)


def test_training_is_a_function_of_the_seed():
    def train(seed):
        return preprocess.preprocess_train(GOLDFISH, 32, seed)

    seeds = tf.stack([tf.range(30, dtype=tf.int64), tf.ones(30, tf.int64)], axis=1)
    dataset = tf.data.Dataset.from_tensor_slices(seeds)
    serial = list(dataset.map(train).as_numpy_iterator())
    parallel = list(dataset.map(train, num_parallel_calls=2).as_numpy_iterator())
    np.testing.assert_array_equal(serial, parallel)
    np.testing.assert_array_equal(train(seeds[7]), serial[7])
    assert len({image.tobytes() for image in serial}) == 30
    assert dataset.map(train).element_spec == tf.TensorSpec([32, 32, 3], tf.uint8)


def test_half_of_the_images_are_mirrored():
    seeds = tf.stack([tf.range(400, dtype=tf.int64), tf.zeros(400, tf.int64)], axis=1)
    encoded = read_format("rgb.png")  # its red channel rises to the right

    def train(seed):
        return preprocess.preprocess_train(encoded, 16, seed, crop_area_min=1.0)

    images = np.array(in_tf_data(train, *seeds)).astype(int)
    mirrored = images[:, 8, 0, 0] > images[:, 8, 15, 0]
    assert 0.42 < mirrored.mean() < 0.58
    plain = images[~mirrored][0]
    np.testing.assert_array_equal(images[mirrored][0], plain[:, ::-1])
