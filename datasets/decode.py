"""Decoding of images to pixels as stored, ignoring the EXIF orientation tag.

The official code ignores it too: a photo that the camera tagged as rotated is used sideways in
training and prediction. `--mode=check_data` counts such photos.

TensorFlow's decoder unpacks all frames of a GIF even if only the first is needed, and a frame may
be larger than the screen size in the header. The frame sizes are therefore read from the blocks
first, without decoding.
"""

from collections.abc import Callable

import tensorflow as tf

_EXTENSION, _IMAGE = 0x21, 0x2C
_PADDING = 16  # Zeros appended to the bytes, at which a truncated block ends.
_BYTES_PER_BLOCK = 16  # Minimum on average; less is treated as an attack on this loop.
_FREE_BLOCKS = 10_000
_HEADER = 26  # bytes of a PNG, BMP or GIF header that contain the image size
NAMED_POSITIONS = 64  # Errors of later images name the last position.
FRAMES_PIXELS = 2**28  # Limit for all frames of a GIF; the decoder needs a byte for each.


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])  # Loops are slow outside of graphs.
def largest_frame(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the size of the largest frame of a GIF, and the number of pixels of all frames.

    Shapes: scalar string -> int32 [2] (height, width), int64 scalar; zeros if there is no frame.
        Data after a truncated block are not read. A file with more than 10,000 blocks plus one per
        16 bytes counts as endless: its number of pixels is the maximum of int64.
    Source: GIF89a specification, sections 17 to 27.
    """
    content = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8), tf.int32)
    size = tf.size(content)
    content = tf.pad(content, [[0, _PADDING]])
    most_blocks = _FREE_BLOCKS + size // _BYTES_PER_BLOCK

    def byte(place: tf.Tensor) -> tf.Tensor:
        return content[tf.minimum(place, size + _PADDING - 1)]

    def number(place: tf.Tensor) -> tf.Tensor:
        return byte(place) + 256 * byte(place + 1)

    def after_colours(place: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
        colours = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return place + tf.where(flags >= 128, 3 * colours, 0)

    def after_blocks(place: tf.Tensor, blocks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Skips sub-blocks, the last of which is empty."""
        place, blocks = tf.while_loop(
            lambda place, blocks: (byte(place) > 0) & (blocks < most_blocks),
            lambda place, blocks: (place + 1 + byte(place), blocks + 1),
            (place, blocks),
        )
        return place + 1, blocks + 1

    def is_block(place, blocks, *_) -> tf.Tensor:
        known = (byte(place) == _EXTENSION) | (byte(place) == _IMAGE)
        return known & (place < size) & (blocks < most_blocks)

    def read_block(place, blocks, largest, pixels):
        is_image = byte(place) == _IMAGE
        frame = tf.where(is_image, tf.stack([number(place + 7), number(place + 5)]), 0)
        counted = tf.reduce_prod(tf.cast(frame, tf.int64))
        largest = tf.where(counted > tf.reduce_prod(tf.cast(largest, tf.int64)), frame, largest)
        data = tf.where(is_image, after_colours(place + 10, byte(place + 9)) + 1, place + 2)
        return *after_blocks(data, blocks), largest, pixels + counted

    start = after_colours(tf.constant(13), byte(tf.constant(10)))
    nothing = tf.constant(0), tf.constant([0, 0]), tf.constant(0, tf.int64)
    _, blocks, largest, pixels = tf.while_loop(is_block, read_block, (start, *nothing))
    return largest, tf.where(blocks < most_blocks, pixels, tf.int64.max)


def _at(position: tf.Tensor | None, make: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Returns `make()`, computed by an operation named after the image's position in its batch.

    TensorFlow's errors identify the location of a failure only by the name of the operation, so
    there is a branch for each position, `image_0` to `image_63`. This costs 3% of decoding.
    """
    if position is None:
        return make()

    def branch(number: int) -> Callable[[], tf.Tensor]:
        def named() -> tf.Tensor:
            with tf.name_scope(f"image_{number}"):
                return make()

        return named

    last = NAMED_POSITIONS - 1
    return tf.switch_case(tf.minimum(position, last), [branch(i) for i in range(last + 1)])


def check_pixels(size: tf.Tensor, max_pixels: int, position: tf.Tensor | None = None) -> tf.Tensor:
    """Returns `size`, and rejects an image of more than `max_pixels` pixels.

    Shapes: int32 [2] (height, width), pixels, from an image's header -> the same.
    Raises: tf.errors.InvalidArgumentError if there are more; it has the position, if given.
    """
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    text = ["too large: height and width are", size]
    with tf.control_dependencies(_assert(pixels <= max_pixels, text, position)):
        return tf.identity(size)


def _check_frames(image_bytes: tf.Tensor, max_pixels: int, position: tf.Tensor | None) -> tf.Tensor:
    """Rejects a GIF with too many pixels in one frame or in all; otherwise returns True."""

    def checked() -> tf.Tensor:
        size, pixels = largest_frame(image_bytes)
        text = ["too large: all frames have pixels", pixels]
        with tf.control_dependencies([check_pixels(size, max_pixels, position)]):
            passed = _assert(pixels <= max(max_pixels, FRAMES_PIXELS), text, position)
        with tf.control_dependencies(passed):
            return tf.constant(True)

    is_gif = tf.strings.substr(image_bytes, 0, 3) == b"GIF"
    return tf.cond(is_gif, checked, lambda: tf.constant(True))


def _assert(condition: tf.Tensor, text: list, position: tf.Tensor | None) -> list[tf.Operation]:
    """Returns control dependencies that fail with this text unless `condition` is true."""
    where = [] if position is None else ["image", position]
    # The raw op: `tf.debugging.Assert` adds a conditional, which costs more than the whole check.
    check = tf.raw_ops.Assert(condition=condition, data=[*where, *text], summarize=2)
    return [] if check is None else [check]  # None: passed in eager mode.


def _part(
    image_bytes: tf.Tensor, start: tf.Tensor, num_bytes: tf.Tensor, position: tf.Tensor | None
) -> tf.Tensor:
    """Returns a slice of a BMP's bytes, scalar string; `start` and `num_bytes` are int64.

    Raises: tf.errors.InvalidArgumentError if the bytes are too few. TensorFlow's own error would
    quote the image data, which Python cannot decode as text.
    """
    start, num_bytes = tf.cast(start, tf.int64), tf.cast(num_bytes, tf.int64)
    size = tf.cast(tf.strings.length(image_bytes), tf.int64)
    inside = (start >= 0) & (num_bytes >= 0) & (start + num_bytes <= size)
    text = ["not a whole BMP: its header and palette are longer than its bytes,", size]
    with tf.control_dependencies(_assert(inside, text, position)):
        return tf.strings.substr(image_bytes, start, num_bytes)


def image_shape(image_bytes: tf.Tensor, position: tf.Tensor | None = None) -> tf.Tensor:
    """Returns height and width from the header of a JPEG, PNG, BMP or GIF, without decoding.

    Shapes: scalar string -> int32 [2] (height, width); zeros for other bytes, and if the header of
        a PNG, BMP or GIF is truncated.
    Raises: tf.errors.InvalidArgumentError if the header of a JPEG cannot be read.
    """

    def from_jpeg() -> tf.Tensor:
        return _at(position, lambda: tf.io.extract_jpeg_shape(image_bytes))[:2]

    def from_other() -> tf.Tensor:
        # Padded: slicing past the end is an error whose message is not valid text.
        header = tf.strings.substr(image_bytes, 0, _HEADER) + tf.constant(bytes(_HEADER))

        def read(start: int, dtype: tf.DType, little_endian: bool = True) -> tf.Tensor:
            part = tf.strings.substr(header, start, 2 * dtype.size)
            return tf.cast(tf.io.decode_raw(part, dtype, little_endian)[::-1], tf.int32)

        first = tf.strings.substr(header, 0, 2)
        return tf.case(
            [
                (first == b"\x89P", lambda: read(16, tf.int32, little_endian=False)),
                (first == b"BM", lambda: tf.abs(read(18, tf.int32))),  # < 0: top row first
                (first == b"GI", lambda: read(6, tf.uint16)),
            ],
            default=lambda: tf.constant([0, 0]),
        )

    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(image_bytes), from_jpeg, from_other), [2])


def _palette_bmp(
    image_bytes: tf.Tensor, indices: tf.Tensor, position: tf.Tensor | None
) -> tf.Tensor:
    """Looks up the colors of an 8-bit BMP, which TensorFlow decodes to palette indices."""
    header = tf.io.decode_raw(_part(image_bytes, 10, 8, position), tf.int32)  # little-endian
    header = tf.cast(header, tf.int64)
    start = 14 + header[1]  # the palette lies between the headers and the pixels
    num_bytes = (header[0] - start) // 4 * 4
    palette = tf.io.decode_raw(_part(image_bytes, start, num_bytes, position), tf.uint8)
    palette = tf.reshape(palette, [-1, 4])[:, 2::-1]  # stored as blue, green, red, unused
    return tf.gather(palette, tf.cast(indices, tf.int32))


def decode_image(
    image_bytes: tf.Tensor, max_pixels: int | None = None, position: tf.Tensor | None = None
) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP or GIF (first frame) to RGB.

    Grayscale becomes three equal channels, CMYK is converted, alpha is dropped, 16 bits become 8.

    Shapes: scalar string -> uint8 [H, W, 3] in [0, 255], H and W dynamic.
    Args:
        position: int32 scalar, the image's position in its batch, named in errors; see `_at`.
    Raises: tf.errors.InvalidArgumentError if the bytes are not a valid image in one of these
        formats, or if it has more than `max_pixels` pixels. This is checked before memory is
        allocated, from the header and, for a GIF, from the size of each frame. All frames of a GIF
        together, which the decoder unpacks even for the first one, may have 2**28 pixels, or
        `max_pixels` if that is more.
    """

    def decoded() -> tf.Tensor:
        return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)

    def colours_of_bmp() -> tf.Tensor:
        bits_per_pixel = tf.io.decode_raw(_part(image_bytes, 28, 2, position), tf.uint8)[0]
        return tf.cond(
            bits_per_pixel == 8,
            lambda: _palette_bmp(image_bytes, image[..., 0], position),
            lambda: image,
        )

    checks = []
    if max_pixels is not None:
        checks = [
            check_pixels(image_shape(image_bytes, position), max_pixels, position),
            _check_frames(image_bytes, max_pixels, position),
        ]
    with tf.control_dependencies(checks):
        image = _at(position, decoded)
    is_bmp = tf.strings.substr(image_bytes, 0, 2) == b"BM"
    with tf.control_dependencies([image]):
        image = tf.cond(is_bmp, colours_of_bmp, lambda: image)
    return tf.ensure_shape(image, [None, None, 3])
