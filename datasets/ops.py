"""The sixteen pixel operations of RandAugment, with the official pixel semantics.

Every operation takes a uint8 image [H, W, 3] with values in [0, 255], static or dynamic H and W,
and returns the same shape and type. All are deterministic and written as whole-image arithmetic,
and run eagerly, in a tf.function and in tf.data.

The published accuracies were obtained with the official pixels, so its oddities are kept, each
named at the function that has it. Casts to uint8 truncate.

Source: official autoaugment.py; the pixels agree with figures computed by running it.
"""

import math

import tensorflow as tf

FILL = 128  # grey, for what geometry uncovers and for Cutout

# The smoothing filter of Sharpness, the same for each channel: [3, 3, 3, 1], sums to 13.
_SMOOTH = [[[[weight]] * 3 for weight in row] for row in ((1, 1, 1), (1, 5, 1), (1, 1, 1))]


def _uint8(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint8)


def _truncate(pixels: tf.Tensor) -> tf.Tensor:
    """Float32 pixels of any range -> uint8: clipped to [0, 255], fractions cut off."""
    return tf.cast(tf.clip_by_value(pixels, 0.0, 255.0), tf.uint8)


def blend(degenerate: tf.Tensor | float, image: tf.Tensor, factor: float) -> tf.Tensor:
    """Goes from `degenerate` (factor 0) to `image` (factor 1) and beyond (factor > 1).

    Shapes: degenerate broadcasts to image [H, W, 3]; any numeric type, in [0, 255] -> uint8.
    """
    start = tf.cast(degenerate, tf.float32)
    end = tf.cast(image, tf.float32)
    return _truncate(start + factor * (end - start))


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to the full range [0, 255]; a constant channel stays as it is."""
    low = tf.cast(tf.reduce_min(image, axis=[0, 1]), tf.float32)  # [3]
    high = tf.cast(tf.reduce_max(image, axis=[0, 1]), tf.float32)
    varies = high > low
    scale = tf.where(varies, 255.0 / (high - low), 1.0)
    offset = tf.where(varies, -low * scale, 0.0)
    return _truncate(tf.cast(image, tf.float32) * scale + offset)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flattens the histogram of each channel; a channel of nearly one value stays as it is."""
    channels = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    histogram = tf.stack([tf.histogram_fixed_width(c, [0, 255], nbins=256) for c in channels])
    brightest = tf.cast(tf.reduce_max(image, axis=[0, 1]), tf.int32)  # [3]
    num_brightest = tf.gather(histogram, brightest, batch_dims=1)
    step = (tf.reduce_sum(histogram, axis=1) - num_brightest)[:, None] // 255  # [3, 1] pixels
    num_darker = tf.cumsum(histogram, axis=1, exclusive=True)  # [3, 256]
    levels = tf.minimum((num_darker + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, levels, tf.range(256))
    table = tf.reshape(tf.cast(table, tf.uint8), [-1])
    return tf.gather(table, tf.cast(image, tf.int32) + [0, 256, 512])


def invert(image: tf.Tensor) -> tf.Tensor:
    """Turns each value v into 255 - v."""
    return 255 - image


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the `bits` highest bits of each value.

    Oddity: bits <= 0 and bits > 8 both keep one bit, since the official shift count wraps.
    """
    kept = bits if 1 <= bits <= 8 else 1
    return tf.bitwise.bitwise_and(image, _uint8(256 - 2 ** (8 - kept)))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values at or above the threshold.

    Oddity: the official threshold is a uint8 that wraps, so 256 inverts everything, as 0 does.
    """
    inverted = tf.cast(image >= _uint8(threshold % 256), tf.uint8) * _uint8(255)
    return tf.bitwise.bitwise_xor(image, inverted)


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds `addition` (>= 0), saturating at 255, to the values below 128."""
    dark = tf.cast(image < _uint8(128), tf.uint8)
    return image + dark * tf.minimum(_uint8(min(addition, 255)), 255 - image)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """Luma as uint8 [H, W, 1], equal to tf.image.rgb_to_grayscale for each of the 2^24 colours.

    The 255.5 is how TensorFlow converts a float in [0, 1] to uint8.
    """
    red, green, blue = tf.split(tf.cast(image, tf.float32) * (1.0 / 255.0), 3, axis=-1)
    return tf.cast((0.2989 * red + 0.5870 * green + 0.1140 * blue) * 255.5, tf.uint8)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends the grey image with the image: saturation."""
    return blend(_grey(image), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends one grey level with the image.

    Oddity: the official level is not the mean value but the number of pixels / 256, at most 255;
    so from 256x256 pixels on, contrast goes away from white and darkens.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    return blend(tf.minimum(height * width // 256, 255), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends black with the image."""
    return blend(0.0, image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends the smoothed image with the image; the border of one pixel stays as it is.

    A convolution and not integer arithmetic: its float32 rounding, then truncated, is official.
    """
    kernel = tf.constant(_SMOOTH, tf.float32) / 13.0
    pixels = tf.cast(image, tf.float32)[None]
    smooth = tf.nn.depthwise_conv2d(pixels, kernel, strides=[1, 1, 1, 1], padding="VALID")[0]
    inner = blend(_truncate(smooth), image[1:-1, 1:-1], factor)  # [H-2, W-2, 3]
    rows = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], rows, image[-1:]], axis=0)


def _transform(image: tf.Tensor, matrix: list) -> tf.Tensor:
    """Samples the input at (x', y') = matrix * (x, y), nearest neighbour, grey outside.

    Args:
        image: uint8 [H, W, 3].
        matrix: the six upper values (a, b, c, d, e, f), row by row; the last row is (0, 0, 1).
    """
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.cast(tf.stack([*matrix, 0.0, 0.0]), tf.float32)[None],
        output_shape=tf.shape(image)[:2],
        fill_value=tf.constant(FILL, tf.float32),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]
    result.set_shape(image.shape)
    return result


def rotate(image: tf.Tensor, degrees: tf.Tensor | float) -> tf.Tensor:
    """Rotates about the image's centre; positive is counter-clockwise."""
    radians = tf.cast(degrees, tf.float32) * (math.pi / 180.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    bottom, right = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32) - 1.0)
    x_offset = (right - (cos * right - sin * bottom)) / 2.0
    y_offset = (bottom - (sin * right + cos * bottom)) / 2.0
    return _transform(image, [cos, -sin, x_offset, sin, cos, y_offset])


def translate_x(image: tf.Tensor, pixels: tf.Tensor | float) -> tf.Tensor:
    """Moves the content left by `pixels`, rounded to the nearest integer."""
    return _transform(image, [1.0, 0.0, pixels, 0.0, 1.0, 0.0])


def translate_y(image: tf.Tensor, pixels: tf.Tensor | float) -> tf.Tensor:
    """Moves the content up by `pixels`, rounded to the nearest integer."""
    return _transform(image, [1.0, 0.0, 0.0, 0.0, 1.0, pixels])


def shear_x(image: tf.Tensor, slope: tf.Tensor | float) -> tf.Tensor:
    """Moves row y left by slope * y; the top row stays in place."""
    return _transform(image, [1.0, slope, 0.0, 0.0, 1.0, 0.0])


def shear_y(image: tf.Tensor, slope: tf.Tensor | float) -> tf.Tensor:
    """Moves column x up by slope * x; the left column stays in place."""
    return _transform(image, [1.0, 0.0, 0.0, slope, 1.0, 0.0])


def cutout(image: tf.Tensor, half_size: int, center: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    """Fills a square with grey, of side 2 * half_size where it fits, else cut at the border.

    Args:
        image: uint8 [H, W, 3].
        half_size: rows [row - half_size, row + half_size) are filled, and columns likewise.
        center: (row, column), int32.
    """
    height, width = tf.unstack(tf.shape(image)[:2])

    def inside(size: tf.Tensor, middle: tf.Tensor) -> tf.Tensor:
        position = tf.range(size)
        return (position >= middle - half_size) & (position < middle + half_size)

    filled = inside(height, center[0])[:, None, None] & inside(width, center[1])[None, :, None]
    return tf.where(filled, _uint8(FILL), image)
