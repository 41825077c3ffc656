"""The operations that move pixels, nearest neighbour, and Cutout; grey where nothing is.

Every operation takes uint8 images [N, H, W, 3] and returns the same shape and type. A rotation or a
shear is the same for all images of a size, so it is worked out once, on an image that holds the
number of each pixel; applying it is one gather, a quarter of the cost of transforming the image.

Source: official autoaugment.py (nearest neighbour, grey 128); the pixels agree with its figures.
"""

import math

import tensorflow as tf

from datasets.ops import rows

FILL = 128  # grey


def _transform(images: tf.Tensor, matrix_for) -> tf.Tensor:
    """Samples the input at (x', y') = matrix * (x, y), nearest neighbour, grey outside.

    Args:
        images: uint8 [N, H, W, 3].
        matrix_for: (height, width) -> the six upper values of the matrix, row by row.
    """
    height, width = images.shape[1:3]
    if height is None or width is None:
        source = _source_pixels(*tf.unstack(tf.shape(images)[1:3]), matrix_for)
    else:
        with tf.init_scope(), tf.device("CPU"):  # Once, not for each batch.
            source = _source_pixels(height, width, matrix_for)
    number, size = tf.shape(images)[0], tf.reduce_prod(tf.shape(images)[1:])
    grey_pixel = tf.fill([number, 3], tf.constant(FILL, tf.uint8))
    pixels = tf.concat([grey_pixel, tf.reshape(images, [number, size])], axis=1)
    pixels = tf.reshape(pixels, [number, size // 3 + 1, 3])
    return tf.reshape(tf.gather(pixels, source, axis=1), tf.shape(images))


def _source_pixels(height, width, matrix_for) -> tf.Tensor:
    """Which pixel each pixel of the result comes from, from 1: int32 [H * W]; 0 where none."""
    bottom_right = tf.cast(tf.stack([height, width]), tf.float32) - 1.0
    matrix = tf.stack([*matrix_for(*tf.unstack(bottom_right)), 0.0, 0.0])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.reshape(tf.range(height * width) + 1, [1, height, width, 1]),
        transforms=tf.cast(matrix, tf.float32)[tf.newaxis],
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return tf.reshape(moved, [-1])


def rotate(images: tf.Tensor, degrees: float) -> tf.Tensor:
    """Rotates about the image's centre; positive is counter-clockwise."""

    def matrix_for(bottom, right):
        radians = tf.constant(degrees, tf.float32) * (math.pi / 180.0)
        cos, sin = tf.cos(radians), tf.sin(radians)
        x_offset = (right - (cos * right - sin * bottom)) / 2.0
        y_offset = (bottom - (sin * right + cos * bottom)) / 2.0
        return cos, -sin, x_offset, sin, cos, y_offset

    return _transform(images, matrix_for)


def shear_x(images: tf.Tensor, slope: float) -> tf.Tensor:
    """Moves row y left by slope * y; the top row stays in place."""
    return _transform(images, lambda bottom, right: (1.0, slope, 0.0, 0.0, 1.0, 0.0))


def shear_y(images: tf.Tensor, slope: float) -> tf.Tensor:
    """Moves column x up by slope * x; the left column stays in place."""
    return _transform(images, lambda bottom, right: (1.0, 0.0, 0.0, slope, 1.0, 0.0))


def _needs_transform(pixels: float | tf.Tensor) -> bool:
    """Where both ways are as near, in float32, coordinates decide one by one how they round."""
    return tf.is_tensor(pixels) or abs(pixels % 1.0 - 0.5) < 1e-3


def translate_x(images: tf.Tensor, pixels: float | tf.Tensor) -> tf.Tensor:
    """Moves the content left by `pixels`, rounded to the nearest integer."""
    if _needs_transform(pixels):
        return _transform(images, lambda bottom, right: (1.0, 0.0, pixels, 0.0, 1.0, 0.0))
    return _shift(images, round(pixels), axis=2)


def translate_y(images: tf.Tensor, pixels: float | tf.Tensor) -> tf.Tensor:
    """Moves the content up by `pixels`, rounded to the nearest integer."""
    if _needs_transform(pixels):
        return _transform(images, lambda bottom, right: (1.0, 0.0, 0.0, 0.0, 1.0, pixels))
    return _shift(images, round(pixels), axis=1)


def _shift(images: tf.Tensor, pixels: int, axis: int) -> tf.Tensor:
    """Moves the content towards the start of an axis; towards its end if `pixels` is negative."""
    size = tf.shape(images)[axis]
    cut, added = tf.minimum(max(pixels, 0), size), tf.minimum(max(-pixels, 0), size)
    begin = [0, 0, 0, 0]
    extent = tf.unstack(tf.shape(images))
    padding = [[0, 0], [0, 0], [0, 0], [0, 0]]
    begin[axis], extent[axis], padding[axis] = cut, size - cut - added, [added, cut]
    return tf.pad(tf.slice(images, begin, extent), padding, constant_values=FILL)


def cutout(images: tf.Tensor, half_size: int | tf.Tensor, centers: tf.Tensor) -> tf.Tensor:
    """Fills a square with grey, of side 2 * half_size where it fits, else cut at the border.

    Args:
        images: uint8 [N, H, W, 3].
        half_size: rows [row - half_size, row + half_size) are filled, and columns likewise.
        centers: (row, column), int32 [N, 2].
    """
    window = window_mask(tf.shape(images), centers - half_size, centers + half_size)
    return replaced(images, window, tf.constant(FILL, tf.uint8))


def window_mask(shape: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """A rectangle in each image, cut at the border: uint8 [N, H, W * 3], 255 inside, 0 outside.

    Args:
        shape: [N, H, W, 3].
        start: first row and column, int32 [N, 2].
        end: the row and column after the last, int32 [N, 2].
    """

    def inside(positions: tf.Tensor, axis: int) -> tf.Tensor:
        within = (positions >= start[:, axis, None]) & (positions < end[:, axis, None])
        return tf.cast(within, tf.uint8) * tf.constant(255, tf.uint8)

    in_rows = inside(tf.range(shape[1])[tf.newaxis], 0)[:, :, tf.newaxis]
    in_columns = inside(tf.repeat(tf.range(shape[2]), 3)[tf.newaxis], 1)[:, tf.newaxis]
    return tf.bitwise.bitwise_and(in_rows, in_columns)


def replaced(images: tf.Tensor, window: tf.Tensor, filling: tf.Tensor) -> tf.Tensor:
    """The images, but `filling` (uint8, a scalar or [N, H, W * 3]) inside the window."""
    pixels = rows(images)
    difference = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(pixels, filling), window)
    return tf.reshape(tf.bitwise.bitwise_xor(pixels, difference), tf.shape(images))
