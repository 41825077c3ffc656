"""The Cutout of the fine-tuning path: a window of noise in every image.

Source: official preprocessing.py, `ft` (official_semantics.md 4.2).
"""

import tensorflow as tf

from datasets.geometry import replaced, window_mask


def has_cutout(augname: str | None) -> bool:
    """Whether `data.augname` asks for this Cutout. Source: official: exactly "ft", or by name."""
    return augname is not None and (augname == "ft" or "cutout" in augname)


def noise_cutout(images: tf.Tensor, seed: tf.Tensor, *, full_range: bool = False) -> tf.Tensor:
    """Fills a window of side S / 2, cut at the border, about a uniform centre, with noise.

    Shapes: uint8 [N, S, S, 3], seed int64 [2] -> uint8 [N, S, S, 3].

    Args:
        full_range: noise in [0, 255]; else in [128, 255] as the official code, whose noise is
            uniform in [0, 1) where pixels are in [-1, 1] (defect D39).
    """
    shape = tf.shape(images)
    place_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    centers = tf.random.stateless_uniform([shape[0], 2], place_seed)
    centers = tf.cast(centers * tf.cast(shape[1:3], tf.float32), tf.int32)
    half_size = shape[1] // 4
    window = window_mask(shape, centers - half_size, centers + half_size)
    # Four bytes from each number: noise for a whole image costs less than a float for each pixel.
    bytes_in_row = shape[2] * 3
    noise = tf.random.stateless_uniform(
        [shape[0], shape[1], -(-bytes_in_row // 4)], noise_seed, None, None, tf.uint32
    )
    noise = tf.reshape(tf.bitcast(noise, tf.uint8), [shape[0], shape[1], -1])[..., :bytes_in_row]
    if not full_range:
        noise = tf.bitwise.bitwise_or(noise, tf.constant(128, tf.uint8))
    return replaced(images, window, noise)
