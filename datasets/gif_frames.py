"""How large the frames of a GIF are, read from its blocks; nothing is decoded.

TensorFlow's decoder unpacks all frames of a GIF, also where the first alone is wanted, and a frame
may be larger than the screen that the header states.
"""

import tensorflow as tf

_EXTENSION, _IMAGE = 0x21, 0x2C
_PADDING = 16  # Zeros behind the bytes: a block that is cut off reads them, and ends.
_BYTES_PER_BLOCK = 16  # On average, at least; else it is taken for an attack on this loop.
_FREE_BLOCKS = 10_000


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])  # Loops are slow outside of graphs.
def largest_frame(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the size of the largest frame of a GIF, and the pixels of all frames together.

    Shapes: scalar string -> int32 [2] (height, width), int64 scalar; zeros if there is none. What
        follows a block that is cut off is not read. A file of more blocks than 10,000 and one per
        16 bytes counts as endless: its number of pixels is the largest of int64.
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
