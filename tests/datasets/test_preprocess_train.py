"""The training path: random crops, flips, and decoding at a reduced size."""

import numpy as np
import pytest
import tensorflow as tf
from broken_files import GOLDFISH, read_format

from efficientnetv2.datasets import preprocess

SEED = tf.constant([3, 4], tf.int64)


def in_tf_data(function, *elements):
    """What `function` returns for each element inside a parallel tf.data map."""
    dataset = tf.data.Dataset.from_tensor_slices(list(elements))
    return list(dataset.map(function, num_parallel_calls=2).as_numpy_iterator())


def make_png(pixels):
    return tf.io.encode_png(np.asarray(pixels))


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
@pytest.mark.parametrize("resize_method", preprocess.RESIZE_METHODS)
def test_training_crop_is_the_drawn_window(name, resize_method):
    encoded = GOLDFISH
    pixels = preprocess.decode_image(GOLDFISH)
    if name == "png":
        encoded = make_png(pixels)
    arguments = {"crop_area_min": 0.05, "resize_method": resize_method}
    window = preprocess.draw_crop(tf.constant([263, 376]), 48, SEED, **arguments).numpy()
    top, left, rows, columns = window
    kept = pixels[top : top + rows, left : left + columns]
    exact = preprocess.RESIZE_METHODS[resize_method](kept, 48).numpy()
    result = preprocess.preprocess_train(encoded, 48, SEED, flip=False, **arguments)
    np.testing.assert_array_equal(result, np.floor(np.clip(exact + 0.5, 0, 255)))
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


def test_flips_do_not_depend_on_crops():
    """Whether the window of mirrored images is placed and shaped as that of the others."""
    encoded, size = read_format("rgb.png"), tf.constant([240, 320])

    def draw(index):
        seed = tf.stack([index, 1])
        image = preprocess.preprocess_train(encoded, 16, seed, crop_area_min=1.0)
        window = preprocess.draw_crop(size, 16, seed, crop_area_min=0.05)
        return image[8, 0, 0] > image[8, 15, 0], window

    draws = tf.data.Dataset.range(2000).map(draw).as_numpy_iterator()
    mirrored, windows = (np.array(part) for part in zip(*draws))
    top, left, height, width = windows.T
    for value in (top, left, height, width, width / height):
        assert abs(np.corrcoef(mirrored, value)[0, 1]) < 0.1  # deviation 0.022


LARGE = tf.io.encode_jpeg(
    tf.cast(tf.image.resize(preprocess.decode_image(GOLDFISH), [900, 1200]), tf.uint8), quality=95
)


@pytest.fixture
def decodings(monkeypatch):
    """The JPEG crops that are decoded: (reduced by, height, width of the result)."""
    found, decode = [], tf.io.decode_and_crop_jpeg

    def noted(*arguments, ratio=1, **settings):
        image = decode(*arguments, ratio=ratio, **settings)
        found.append((ratio, *image.shape[:2]))
        return image

    monkeypatch.setattr(tf.io, "decode_and_crop_jpeg", noted)
    return found


@pytest.mark.parametrize(
    "size, ratio",
    [(901, 1), (451, 1), (450, 2), (226, 2), (225, 4), (113, 4), (112, 8), (40, 8), (1, 8)],
)
def test_fast_decoding_reduces_as_far_as_the_crop_stays_large_enough(decodings, size, ratio):
    preprocess.preprocess_train(LARGE, size, SEED, crop_area_min=1.0, fast_decode=True)
    assert decodings == [(ratio, 900 // ratio, 1200 // ratio)]
    preprocess.preprocess_train(LARGE, size, SEED, crop_area_min=1.0)
    assert decodings[1:] == [(1, 900, 1200)]


def test_fast_decoding_never_enlarges_what_it_reduced(decodings):
    for index in range(60):
        seed = tf.constant([index, 0], tf.int64)
        window = preprocess.draw_crop(tf.constant([900, 1200]), 64, seed, crop_area_min=0.05)
        preprocess.preprocess_train(LARGE, 64, seed, crop_area_min=0.05, fast_decode=True)
        ratio, height, width = decodings[-1]
        assert [height, width] == (window[2:] // ratio).numpy().tolist()
        assert ratio == 1 or min(height, width) >= 64
        assert ratio == 8 or min(window[2:]) // (2 * ratio) < 64
    assert {decoding[0] for decoding in decodings} == {2, 4, 8}


@pytest.mark.parametrize("resize_method", preprocess.RESIZE_METHODS)
@pytest.mark.parametrize("size, levels", [(300, 3), (150, 6), (64, 10)])
def test_fast_decoding_shows_nearly_the_same_picture(size, levels, resize_method):
    """By the mean difference; less than from the picture moved by one pixel."""
    off, moved = [], []
    for index in range(8):
        seed = tf.constant([index, 2], tf.int64)
        arguments = {"crop_area_min": 0.5, "resize_method": resize_method}
        exact, fast = (
            preprocess.preprocess_train(LARGE, size, seed, fast_decode=fast, **arguments).numpy()
            for fast in (False, True)
        )
        off.append(np.abs(exact[1:].astype(int) - fast[1:]).mean())
        moved.append(np.abs(exact[1:].astype(int) - fast[:-1]).mean())
    assert 0 < np.mean(off) < min(levels, 0.95 * np.mean(moved))


def test_fast_decoding_inside_tf_data_and_of_other_formats():
    def train(encoded, **arguments):
        return preprocess.preprocess_train(encoded, 100, SEED, **arguments)

    (inside,) = in_tf_data(lambda x: train(x, fast_decode=True), LARGE)
    np.testing.assert_array_equal(inside, train(LARGE, fast_decode=True))
    png = make_png(preprocess.decode_image(GOLDFISH))
    np.testing.assert_array_equal(train(png, fast_decode=True), train(png))
    plain, fast = train(LARGE), train(LARGE, fast_decode=True)
    assert np.any(plain != fast)
