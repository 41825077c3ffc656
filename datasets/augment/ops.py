"""The operations of RandAugment and AutoAugment, and the Cutout of fine-tuning.

Every operation takes uint8 images [N, H, W, 3] with values in [0, 255], any N, and returns the same
shape and type. All are deterministic, written as whole-batch arithmetic, and run eagerly, in a
tf.function and in tf.data.

The published accuracies were obtained with the official code, so its oddities are kept, each
documented at its function; `policies.py` has the corrected set. Casts to uint8 truncate.

The implementations were chosen by measurement (benchmarks/input_pipeline.py): TensorFlow's kernels
are slow when they broadcast over the last axis of size 3 or select (`tf.where`) bytes, and fast on
long rows. A rotation or a shear is the same for all images of a size, so it is computed once, on an
image of pixel indices; applying it is one gather, at a quarter of the cost of transforming the
image.

Source: official autoaugment.py (nearest neighbor, gray 128); the pixels agree with values computed
by running it. The Cutout of fine-tuning: official preprocessing.py, `ft`.
"""

import math

import tensorflow as tf

# The smoothing filter of Sharpness, the same for each channel: [3, 3, 3, 1], sums to 13.
_SMOOTH = [[[[weight]] * 3 for weight in row] for row in ((1, 1, 1), (1, 5, 1), (1, 1, 1))]
FILL = 128  # gray


def _uint8(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint8)


def rows(images: tf.Tensor) -> tf.Tensor:
    """Reshapes [N, H, W, C] to [N, H, W * C]: kernels are fast on long rows."""
    shape = tf.shape(images)
    return tf.reshape(images, [shape[0], shape[1], shape[2] * shape[3]])


def _per_channel(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Repeats a value per channel, [N, 3], along the rows of the images: [N, 1, W * 3]."""
    return tf.tile(values, [1, tf.shape(images)[2]])[:, tf.newaxis]


def _truncate(pixels: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Converts float32 pixels of any range to uint8: clipped to [0, 255] and truncated."""
    pixels = tf.raw_ops.ClipByValue(t=pixels, clip_value_min=0.0, clip_value_max=255.0)
    return tf.reshape(tf.cast(pixels, tf.uint8), tf.shape(like))


def blend(degenerate: tf.Tensor | float, images: tf.Tensor, factor: float) -> tf.Tensor:
    """Interpolates from `degenerate` (factor 0) to the images (factor 1); extrapolates above 1.

    Shapes: degenerate float32 in [0, 255], broadcasts to [N, H, W * 3]; uint8 [N, H, W, 3] -> same.
    """
    end = rows(tf.cast(images, tf.float32))
    return _truncate(degenerate + factor * (end - degenerate), images)


def auto_contrast(images: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to the full range [0, 255]; a constant channel is unchanged."""
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
    """Flattens the histogram of each channel; a nearly constant channel is unchanged."""
    number = tf.shape(images)[0]
    channels = tf.reshape(tf.range(number * 3) * 256, [number, 3])  # Each has its own bins.
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
    table = tf.reshape(tf.cast(table, tf.float32), [-1])  # Twice as fast with floats as with bytes.
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
    """Inverts the values at or above the threshold, in [0, 256]; with 256 there are none."""
    if threshold > 255:
        return images
    inverted = tf.cast(images >= _uint8(threshold), tf.uint8) * _uint8(255)
    return tf.bitwise.bitwise_xor(images, inverted)


def solarize_add(images: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds `addition` (>= 0), saturating at 255, to the values below 128."""
    dark = tf.cast(images < _uint8(128), tf.uint8) * _uint8(min(addition, 255))
    return images + tf.minimum(dark, _uint8(255) - images)


def grey(images: tf.Tensor) -> tf.Tensor:
    """Returns integer luma, float32 [N, H, W]; equal to tf.image.rgb_to_grayscale for all colors.

    TensorFlow uses the factor 255.5 to convert a float in [0, 1] to uint8.
    """
    red, green, blue = (
        tf.cast(channel, tf.float32) * (1.0 / 255.0) for channel in tf.unstack(images, axis=-1)
    )
    return tf.floor((0.2989 * red + 0.5870 * green + 0.1140 * blue) * 255.5)


def color(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends the grayscale image with the image: saturation."""
    # Multiplying by ones repeats the luma for each channel at half the cost of a broadcast.
    luma = tf.matmul(tf.reshape(grey(images), [-1, 1]), tf.ones([1, 3]))
    return blend(tf.reshape(luma, tf.shape(rows(images))), images, factor)


def contrast(images: tf.Tensor, factor: float, level: tf.Tensor | float) -> tf.Tensor:
    """Blends one gray level, a scalar or float32 [N, 1, 1], with the image."""
    return blend(level, images, factor)


def official_contrast_level(images: tf.Tensor) -> tf.Tensor:
    """Returns the number of pixels / 256, at most 255. Oddity: it should be the mean value.

    From 256x256 pixels on, the official contrast therefore moves away from white and darkens.
    """
    height, width = tf.unstack(tf.shape(images)[1:3])
    return tf.cast(tf.minimum(height * width // 256, 255), tf.float32)


def mean_grey(images: tf.Tensor) -> tf.Tensor:
    """Returns the mean luma of each image, an integer, float32 [N, 1, 1]."""
    return tf.floor(tf.reduce_mean(grey(images), axis=[1, 2], keepdims=True) + 0.5)


def brightness(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends black with the image."""
    pixels = tf.cast(images, tf.float32) * factor
    return tf.cast(tf.minimum(pixels, 255.0), tf.uint8)


def sharpness(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends the smoothed image with the image; the border of one pixel is unchanged.

    Uses a convolution, not integer arithmetic, to match the official float32 rounding, which is
    then truncated.
    """
    kernel = tf.constant(_SMOOTH, tf.float32) / 13.0
    pixels = tf.cast(images, tf.float32)
    smooth = tf.floor(tf.nn.depthwise_conv2d(pixels, kernel, strides=[1, 1, 1, 1], padding="SAME"))
    blended = _truncate(smooth + factor * (pixels - smooth), images)
    last, end = images[:, 1:][:, -1:], images[:, :, 1:][:, :, -1:]  # Empty if it is also the first.
    blended = tf.concat([images[:, :1], blended[:, 1:-1], last], axis=1)
    return tf.concat([images[:, :, :1], blended[:, :, 1:-1], end], axis=2)


def _transform(images: tf.Tensor, matrix_for) -> tf.Tensor:
    """Samples the input at (x', y') = matrix * (x, y), nearest neighbor, gray outside.

    Args:
        images: uint8 [N, H, W, 3].
        matrix_for: (height - 1, width - 1) -> the first two rows of the matrix, six values.
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
    """Returns the source index of each output pixel, from 1: int32 [H * W]; 0 if outside."""
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
    """Rotates about the image's center; positive is counterclockwise."""

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
    """Returns whether pixels cannot be shifted as a whole: a dynamic shift, or one close to .5.

    Close to .5, float32 rounds the coordinates of different pixels in different directions.
    """
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
    """Moves the content toward the start of an axis, or toward its end if `pixels` is negative."""
    size = tf.shape(images)[axis]
    cut, added = tf.minimum(max(pixels, 0), size), tf.minimum(max(-pixels, 0), size)
    begin = [0, 0, 0, 0]
    extent = tf.unstack(tf.shape(images))
    padding = [[0, 0], [0, 0], [0, 0], [0, 0]]
    begin[axis], extent[axis], padding[axis] = cut, size - cut - added, [added, cut]
    return tf.pad(tf.slice(images, begin, extent), padding, constant_values=FILL)


def cutout(images: tf.Tensor, half_size: int | tf.Tensor, centers: tf.Tensor) -> tf.Tensor:
    """Fills a square of side 2 * half_size, clipped at the border, with gray.

    Args:
        images: uint8 [N, H, W, 3].
        half_size: rows [row - half_size, row + half_size) are filled, and columns likewise.
        centers: (row, column), int32 [N, 2].
    """
    window = window_mask(tf.shape(images), centers - half_size, centers + half_size)
    return replaced(images, window, tf.constant(FILL, tf.uint8))


def window_mask(shape: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Returns a mask of a rectangle in each image: uint8 [N, H, W * 3], 255 inside, 0 outside.

    The rectangle is clipped at the border.

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
    """Returns the images with `filling` (uint8, a scalar or [N, H, W * 3]) inside the window."""
    pixels = rows(images)
    difference = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(pixels, filling), window)
    return tf.reshape(tf.bitwise.bitwise_xor(pixels, difference), tf.shape(images))


def has_cutout(augname: str | None) -> bool:
    """Returns whether `data.augname` selects this Cutout. Source: official: "ft", or by name."""
    return augname is not None and (augname == "ft" or "cutout" in augname)


def noise_cutout(images: tf.Tensor, seed: tf.Tensor, *, full_range: bool = False) -> tf.Tensor:
    """Fills a window of side S / 2 around a uniform center, clipped at the border, with noise.

    Shapes: uint8 [N, S, S, 3], seed int64 [2] -> uint8 [N, S, S, 3].

    Args:
        full_range: noise in [0, 255]; else in [128, 255] as in the official code, whose noise is
            uniform in [0, 1) although pixels are in [-1, 1] (defect D39).
    """
    shape = tf.shape(images)
    place_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    centers = tf.random.stateless_uniform([shape[0], 2], place_seed)
    centers = tf.cast(centers * tf.cast(shape[1:3], tf.float32), tf.int32)
    half_size = shape[1] // 4
    window = window_mask(shape, centers - half_size, centers + half_size)
    # Four bytes per random number: noise for a whole image costs less than a float per pixel.
    bytes_in_row = shape[2] * 3
    noise = tf.random.stateless_uniform(
        [shape[0], shape[1], -(-bytes_in_row // 4)], noise_seed, None, None, tf.uint32
    )
    noise = tf.reshape(tf.bitcast(noise, tf.uint8), [shape[0], shape[1], -1])[..., :bytes_in_row]
    if not full_range:
        noise = tf.bitwise.bitwise_or(noise, tf.constant(128, tf.uint8))
    return replaced(images, window, noise)
