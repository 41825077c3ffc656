"""Mixup of a batch with its own mirror image: weights drawn apart from applied.

Source: arXiv 1710.09412; official datasets.py (partner, one weight per example, max(l, 1 - l)).
"""

import tensorflow as tf

from hparams import UserError


def draw_mixup(batch_size: int | tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws how much each example keeps of itself: max(l, 1 - l), l from Beta(alpha, alpha).

    Shapes: seed int64 [2] -> float32 [B] in [0.5, 1]; all ones if alpha is 0.
    Raises: UserError if alpha is negative.
    """
    if alpha < 0:
        raise UserError(f"Mixup alpha must be >= 0, got {alpha}; 0 turns Mixup off")
    if alpha == 0:
        return tf.ones([batch_size], tf.float32)
    seeds = tf.random.experimental.stateless_split(seed, 2)
    own, other = [
        tf.random.stateless_gamma([batch_size], s, alpha, dtype=tf.float64)
        for s in tf.unstack(seeds)
    ]
    share = own / (own + other)
    # Equal only if both stopped at the smallest float (tiny alpha), where the limit is 0 or 1.
    weights = tf.where(own == other, tf.ones_like(share), tf.maximum(share, 1.0 - share))
    return tf.cast(weights, tf.float32)


def apply_mixup(
    images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends example i with example B - 1 - i; a weight of 1 leaves the example as it is.

    Shapes: images [B, H, W, 3] uint8 or float, labels float32 [B, K], weights float32 [B]
        -> images and labels of the same shapes and types; rows of labels keep their sum.
    Deviates: the official code blends normalised floats; uint8 images are blended in float32
        and rounded to the nearest level (at most half a level off).
    """
    weights = tf.cast(weights, tf.float32)
    own = tf.cast(images, tf.float32)
    per_image = weights[:, None, None, None]
    blended = per_image * own + (1.0 - per_image) * tf.reverse(own, axis=[0])
    if not images.dtype.is_floating:
        blended = tf.round(blended)
    per_label = weights[:, None]
    mixed_labels = per_label * labels + (1.0 - per_label) * tf.reverse(labels, axis=[0])
    return tf.cast(blended, images.dtype), mixed_labels
