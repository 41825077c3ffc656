"""Large images are refused by their headers; formats are tested in test_preprocess.py."""

import resource

import broken_files
import pytest
import tensorflow as tf

from efficientnetv2.datasets.decode import check_pixels, decode_image, image_shape

FORMATS = sorted(path.name for path in (broken_files.DATA / "formats").iterdir())
BOMBS = [name for name, row in broken_files.FAULTS.items() if row[2] == "too large"]


def in_tf_data(function, image_bytes):
    dataset = tf.data.Dataset.from_tensors(image_bytes).map(function)
    return next(dataset.as_numpy_iterator())


@pytest.mark.parametrize("name", FORMATS)
def test_the_header_tells_the_shape(name):
    image_bytes = broken_files.read_format(name)
    assert image_shape(image_bytes).numpy().tolist() == [24, 32]
    assert in_tf_data(image_shape, image_bytes).tolist() == [24, 32]
    assert decode_image(image_bytes, max_pixels=24 * 32).shape == (24, 32, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        decode_image(image_bytes, max_pixels=24 * 32 - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        in_tf_data(lambda image: decode_image(image, 24 * 32 - 1), image_bytes)


def test_a_bmp_from_top_to_bottom_has_a_shape():
    image_bytes = broken_files.read_format("rgb.bmp")
    turned = image_bytes[:22] + (-24).to_bytes(4, "little", signed=True) + image_bytes[26:]
    assert image_shape(turned).numpy().tolist() == [24, 32]


@pytest.mark.parametrize("content", [b"", b"B", b"BM", b"\x89PNG", b"GIF89a", b"no image"])
def test_a_header_that_is_no_header_has_no_shape(content):
    assert image_shape(content).numpy().tolist() == [0, 0]
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(content, max_pixels=100)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_no_memory(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large.*20000 20000"):
        in_tf_data(lambda image: decode_image(image, 10**8), broken_files.FAULTS[name][1])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # KiB; the pixels would be 1.2 GB


def test_a_real_bomb_takes_no_memory():
    jpeg = tf.io.encode_jpeg(tf.zeros([12_000, 9_000, 1], tf.uint8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large.*12000 9000"):
        decode_image(jpeg, 10**8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_pixels_are_counted_beyond_32_bits():
    size = tf.constant([65_536, 65_536])
    assert check_pixels(size, 2**32).numpy().tolist() == [65_536, 65_536]
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        check_pixels(size, 2**32 - 1)


def test_the_orientation_of_exif_is_ignored():
    turned = decode_image(broken_files.exif_rotated())
    upright = decode_image(broken_files.GOLDFISH)
    assert turned.shape == upright.shape
    tf.debugging.assert_equal(turned, upright)


def broken_bmps() -> dict[str, bytes]:
    """BMPs that look whole until their palette is read: cut off, or it lies elsewhere."""
    whole = broken_files.read_format("palette.bmp")
    found = {f"{length} bytes": whole[:length] for length in (3, 15, 27, 29, 53, 60, 500)}
    for place, what in ((10, "pixels"), (14, "palette")):
        for value in (-(2**31), -66_000, -200, 2**20, 2**31 - 1):
            number = value.to_bytes(4, "little", signed=True)
            found[f"{what} at {value}"] = whole[:place] + number + whole[place + 4 :]
    return found


@pytest.mark.parametrize("name", broken_bmps())
def test_the_error_of_a_bmp_is_text(name):
    """TensorFlow's own repeats the image, which Python cannot read: a UnicodeDecodeError."""
    content = broken_bmps()[name]
    named = tf.function(lambda image: decode_image(image, 10**8, tf.constant(3)))
    for decode in (decode_image, named):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(tf.constant(content))
