"""The pixel operations of RandAugment that keep every pixel in its place.

Every operation takes uint8 images [N, H, W, 3] with values in [0, 255], any N, and returns the same
shape and type. All are deterministic, written as whole-batch arithmetic, and run eagerly, in a
tf.function and in tf.data. What moves pixels is in `datasets/geometry.py`.

The published accuracies were obtained with the official pixels, so its oddities are kept, each
named at the function that has it; `datasets/op_sets.py` has the mended set. Casts to uint8 cut off.

How they are written is measured (benchmarks/input_pipeline.py): TensorFlow's kernels are slow where
they broadcast over the last axis of 3 or select (`tf.where`) bytes, and fast on long rows.

Source: official autoaugment.py; the pixels agree with figures computed by running it.
"""

import tensorflow as tf

# The smoothing filter of Sharpness, the same for each channel: [3, 3, 3, 1], sums to 13.
_SMOOTH = [[[[weight]] * 3 for weight in row] for row in ((1, 1, 1), (1, 5, 1), (1, 1, 1))]


def _uint8(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint8)


def rows(images: tf.Tensor) -> tf.Tensor:
    """[N, H, W, C] -> [N, H, W * C]: long rows, which kernels are fast on."""
    shape = tf.shape(images)
    return tf.reshape(images, [shape[0], shape[1], shape[2] * shape[3]])


def _per_channel(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """A value for each channel, [N, 3], repeated along the rows of the images: [N, 1, W * 3]."""
    return tf.tile(values, [1, tf.shape(images)[2]])[:, tf.newaxis]


def _truncate(pixels: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Float32 pixels of any range -> uint8: clipped to [0, 255], fractions cut off."""
    pixels = tf.raw_ops.ClipByValue(t=pixels, clip_value_min=0.0, clip_value_max=255.0)
    return tf.reshape(tf.cast(pixels, tf.uint8), tf.shape(like))


def blend(degenerate: tf.Tensor | float, images: tf.Tensor, factor: float) -> tf.Tensor:
    """Goes from `degenerate` (factor 0) to the images (factor 1) and beyond (factor > 1).

    Shapes: degenerate float32 in [0, 255], broadcasts to [N, H, W * 3]; uint8 [N, H, W, 3] -> same.
    """
    end = rows(tf.cast(images, tf.float32))
    return _truncate(degenerate + factor * (end - degenerate), images)


def auto_contrast(images: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to the full range [0, 255]; a constant channel stays as it is."""
    pixels = rows(tf.cast(images, tf.float32))
    by_column = tf.shape(images)[0], tf.shape(images)[2], 3
    low = tf.reduce_min(tf.reshape(tf.reduce_min(pixels, axis=1), by_column), axis=1)  # [N, 3]
    high = tf.reduce_max(tf.reshape(tf.reduce_max(pixels, axis=1), by_column), axis=1)
    varies = high > low
    scale = tf.where(varies, 255.0 / (high - low), 1.0)
    offset = tf.where(varies, -low * scale, 0.0)
    stretched = pixels * _per_channel(scale, images) + _per_channel(offset, images)
    return tf.reshape(tf.cast(stretched, tf.uint8), tf.shape(images))


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Flattens the histogram of each channel; a channel of nearly one value stays as it is."""
    number = tf.shape(images)[0]
    channels = tf.reshape(tf.range(number * 3) * 256, [number, 3])  # Each has bins of its own.
    bins = tf.reshape(rows(tf.cast(images, tf.int32)) + _per_channel(channels, images), [-1])
    no_weights = tf.zeros([0], tf.int32)
    histogram = tf.raw_ops.Bincount(arr=bins, size=number * 768, weights=no_weights)
    histogram = tf.reshape(histogram, [number * 3, 256])
    brightest = tf.reduce_max(tf.where(histogram > 0, tf.range(256), 0), axis=1)
    num_brightest = tf.gather(histogram, brightest, batch_dims=1)
    step = (tf.reduce_sum(histogram, axis=1) - num_brightest)[:, tf.newaxis] // 255  # pixels
    num_darker = tf.cumsum(histogram, axis=1, exclusive=True)
    levels = tf.minimum((num_darker + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, levels, tf.range(256))
    table = tf.reshape(tf.cast(table, tf.float32), [-1])  # Of floats: twice as fast as of bytes.
    return tf.reshape(tf.cast(tf.gather_nd(table, bins[:, tf.newaxis]), tf.uint8), tf.shape(images))


def invert(images: tf.Tensor) -> tf.Tensor:
    """Turns each value v into 255 - v."""
    return _uint8(255) - images


def posterize(images: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the `bits` highest bits of each value.

    Oddity: bits <= 0 and bits > 8 both keep one bit, since the official shift count wraps.
    """
    kept = bits if 1 <= bits <= 8 else 1
    return tf.bitwise.bitwise_and(images, _uint8(256 - 2 ** (8 - kept)))


def solarize(images: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values at or above the threshold, in [0, 256]; at 256 there are none."""
    if threshold > 255:
        return images
    inverted = tf.cast(images >= _uint8(threshold), tf.uint8) * _uint8(255)
    return tf.bitwise.bitwise_xor(images, inverted)


def solarize_add(images: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds `addition` (>= 0), saturating at 255, to the values below 128."""
    dark = tf.cast(images < _uint8(128), tf.uint8) * _uint8(min(addition, 255))
    return images + tf.minimum(dark, _uint8(255) - images)


def grey(images: tf.Tensor) -> tf.Tensor:
    """Luma, whole numbers, float32 [N, H, W]; equal to tf.image.rgb_to_grayscale for all colours.

    The 255.5 is how TensorFlow converts a float in [0, 1] to uint8.
    """
    red, green, blue = (
        tf.cast(channel, tf.float32) * (1.0 / 255.0) for channel in tf.unstack(images, axis=-1)
    )
    return tf.floor((0.2989 * red + 0.5870 * green + 0.1140 * blue) * 255.5)


def color(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends the grey image with the image: saturation."""
    # A product with ones repeats the luma for each channel at half the cost of a broadcast.
    luma = tf.matmul(tf.reshape(grey(images), [-1, 1]), tf.ones([1, 3]))
    return blend(tf.reshape(luma, tf.shape(rows(images))), images, factor)


def contrast(images: tf.Tensor, factor: float, level: tf.Tensor | float) -> tf.Tensor:
    """Blends one grey level, a scalar or float32 [N, 1, 1], with the image."""
    return blend(level, images, factor)


def official_contrast_level(images: tf.Tensor) -> tf.Tensor:
    """Oddity: not the mean value but the number of pixels / 256, at most 255.

    So from 256x256 pixels on, the official contrast goes away from white and darkens.
    """
    height, width = tf.unstack(tf.shape(images)[1:3])
    return tf.cast(tf.minimum(height * width // 256, 255), tf.float32)


def mean_grey(images: tf.Tensor) -> tf.Tensor:
    """The mean luma of each image, a whole number, float32 [N, 1, 1]."""
    return tf.floor(tf.reduce_mean(grey(images), axis=[1, 2], keepdims=True) + 0.5)


def brightness(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends black with the image."""
    pixels = tf.cast(images, tf.float32) * factor
    return tf.cast(tf.minimum(pixels, 255.0), tf.uint8)


def sharpness(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends the smoothed image with the image; the border of one pixel stays as it is.

    A convolution and not integer arithmetic: its float32 rounding, then truncated, is official.
    """
    kernel = tf.constant(_SMOOTH, tf.float32) / 13.0
    pixels = tf.cast(images, tf.float32)
    smooth = tf.floor(tf.nn.depthwise_conv2d(pixels, kernel, strides=[1, 1, 1, 1], padding="SAME"))
    blended = _truncate(smooth + factor * (pixels - smooth), images)
    last, end = images[:, 1:][:, -1:], images[:, :, 1:][:, :, -1:]  # Empty where it is the first.
    blended = tf.concat([images[:, :1], blended[:, 1:-1], last], axis=1)
    return tf.concat([images[:, :, :1], blended[:, :, 1:-1], end], axis=2)
