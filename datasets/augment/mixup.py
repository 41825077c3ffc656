"""Mixup and CutMix of a batch with itself in reverse order; drawing and applying are separate.

Source: arXiv 1710.09412 (Mixup), 1905.04899 (CutMix); official datasets.py: the partner is the
batch in reverse, each example has its own draw, and with both, each is applied to one half.
"""

from typing import NamedTuple

import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.augment.ops import replaced, window_mask


class Boxes(NamedTuple):
    """CutMix boxes of B images of S pixels: the region that is taken from each one's partner."""

    start: tf.Tensor  # int32 [B, 2]: first row and column
    end: tf.Tensor  # int32 [B, 2]: the row and column after the last
    weights: tf.Tensor  # float32 [B]: the share of the image that is kept


def _beta(batch_size: int | tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws from Beta(alpha, alpha): float64 [B] in [0, 1]."""
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    own, other = [
        tf.random.stateless_gamma([batch_size], s, alpha, dtype=tf.float64) for s in seeds
    ]
    # Equal only if both underflowed to the smallest float (tiny alpha); the limit is 0 or 1.
    return tf.where(own == other, tf.ones_like(own), own / (own + other))


def draw_mixup(batch_size: int | tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws the weight of each example: max(l, 1 - l), with l from Beta(alpha, alpha).

    Shapes: seed int64 [2] -> float32 [B] in [0.5, 1], multiples of 1/256; all ones if alpha is 0.
    Raises: UserError if alpha is negative.
    """
    _check_alpha("Mixup", alpha)
    if alpha == 0:
        return tf.ones([batch_size], tf.float32)
    share = _beta(batch_size, alpha, seed)
    return tf.cast(tf.round(tf.maximum(share, 1.0 - share) * 256.0) / 256.0, tf.float32)


def apply_mixup(
    images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends example i with example B - 1 - i; a weight of 1 leaves the example unchanged.

    Shapes: images uint8 [B, H, W, 3], labels float32 [B, K], weights float32 [B], multiples of
        1/256 in [0, 1] -> images and labels of the same shapes; rows of labels keep their sum.
    Deviates: the official code blends normalized floats with any weight; here bytes are blended
        exactly and rounded to the nearest level. Integers move half as much memory as floats.
    """
    weights = tf.convert_to_tensor(weights, tf.float32)
    parts = tf.cast(tf.round(weights * 256.0), tf.uint16)[:, tf.newaxis]
    own = tf.cast(tf.reshape(images, [tf.shape(images)[0], -1]), tf.uint16)  # Long rows are fast.
    blended = own * parts + _mirrored(own) * (256 - parts) + 128  # At most 2^16 - 128.
    upper_bytes = tf.bitcast(tf.reshape(blended, [-1]), tf.uint8)[:, 1]  # Divides by 256.
    blended = tf.ensure_shape(tf.reshape(upper_bytes, tf.shape(images)), images.shape)
    return blended, _blend_labels(labels, weights[:, tf.newaxis])


def draw_cutmix(
    batch_size: int | tf.Tensor, alpha: float, image_size: int, seed: tf.Tensor
) -> Boxes:
    """Draws a box for each image, whose side is sqrt(1 - a) of the image's, with a from Beta.

    The center is uniform and the box is clipped at the border; the weight is the share of the image
    outside the clipped box. With alpha 0 all boxes are empty.

    Shapes: seed int64 [2] -> boxes of B images.
    Raises: UserError if alpha is negative.
    Deviates: in the official code the labels of a whole batch share one mean weight (D8).
    """
    _check_alpha("CutMix", alpha)
    if alpha == 0:
        nowhere = tf.zeros([batch_size, 2], tf.int32)
        return Boxes(nowhere, nowhere, tf.ones([batch_size], tf.float32))
    beta_seed, place_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    side = tf.sqrt(1.0 - _beta(batch_size, alpha, beta_seed))
    side = tf.cast(side * image_size, tf.int32)[:, tf.newaxis]
    centers = tf.random.stateless_uniform([batch_size, 2], place_seed, 0, image_size, tf.int32)
    start = tf.maximum(centers - side // 2, 0)
    end = tf.minimum(centers - side // 2 + side, image_size)
    taken = tf.cast(tf.reduce_prod(end - start, axis=1), tf.float32) / image_size**2
    return Boxes(start, end, 1.0 - taken)


def apply_cutmix(images: tf.Tensor, labels: tf.Tensor, boxes: Boxes) -> tuple[tf.Tensor, tf.Tensor]:
    """Replaces the box of example i with the same region of example B - 1 - i.

    Shapes: images uint8 [B, S, S, 3], labels float32 [B, K] -> the same; rows of labels keep their
        sum.
    """
    window = window_mask(tf.shape(images), boxes.start, boxes.end)
    partner = tf.reshape(_mirrored(images), tf.shape(window))
    mixed = tf.ensure_shape(replaced(images, window, partner), images.shape)
    return mixed, _blend_labels(labels, boxes.weights[:, tf.newaxis])


def _mirrored(batch: tf.Tensor) -> tf.Tensor:
    """Returns the batch in reverse; gathering whole rows is ten times as fast as `tf.reverse`."""
    return tf.gather(batch, tf.range(tf.shape(batch)[0] - 1, -1, -1))


def _blend_labels(labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return weights * labels + (1.0 - weights) * _mirrored(labels)


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    mixup_alpha: float,
    cutmix_alpha: float,
    seed: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies Mixup or CutMix; if both alphas are above 0, each to one half, Mixup to the first.

    Shapes: images uint8 [B, S, S, 3], labels float32 [B, K], seed int64 [2] -> the same.
    Source: official; each half is mixed with itself in reverse order.
    """
    batch, size = images.shape[0], images.shape[1]
    mixup_seed, cutmix_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    half = batch // 2 if mixup_alpha and cutmix_alpha else batch * (mixup_alpha > 0)
    parts = []
    if mixup_alpha and half:
        weights = draw_mixup(half, mixup_alpha, mixup_seed)
        parts.append(apply_mixup(images[:half], labels[:half], weights))
    if cutmix_alpha:
        boxes = draw_cutmix(batch - half, cutmix_alpha, size, cutmix_seed)
        parts.append(apply_cutmix(images[half:], labels[half:], boxes))
    if not parts:
        return images, labels
    if len(parts) == 1:
        return parts[0]
    return tuple(tf.concat(both, axis=0) for both in zip(*parts))


def _check_alpha(name: str, alpha: float) -> None:
    if alpha < 0:
        raise UserError(f"{name} alpha must be >= 0, got {alpha}; 0 turns {name} off")
