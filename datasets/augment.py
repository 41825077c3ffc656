"""Applying operations to images: one by name, or to each image of a batch what a policy drew."""

import difflib

import tensorflow as tf

from datasets.op_sets import OP_NAMES, OP_SETS, Strength
from datasets.policies import Action, Draws, Policy, check_magnitude
from hparams import UserError

__all__ = ["OP_NAMES", "apply_op", "apply_policy"]


def apply_op(
    name: str,
    image: tf.Tensor,
    magnitude: float,
    negate: bool | tf.Tensor = False,
    *,
    op_set: str = "official",
    cutout_center: tuple[int, int] | tf.Tensor | None = None,
    translate_const: float = 100.0,
    cutout_const: float = 40.0,
) -> tf.Tensor:
    """Applies one named operation; deterministic.

    Shapes: image uint8 [H, W, 3] in [0, 255] -> same.
    Units: translate_const and cutout_const in pixels at magnitude 10: of any image in the official
        set; in the corrected one of an image of 300 pixels, in proportion for others.

    Args:
        name: one of OP_NAMES.
        image: the image, static or dynamic in size.
        magnitude: strength in [0, 30]; 10 is nominal, above it extrapolates.
        negate: the other direction, where the operation has one.
        op_set: "official", bug for bug, or "corrected"; see `datasets/op_sets.py`.
        cutout_center: (row, column) for Cutout; the middle of the image if None.
        translate_const: how far the translations go; official 100 (RandAugment).
        cutout_const: half the side of the Cutout square; official 40 (RandAugment).

    Raises:
        UserError: unknown name or set, magnitude out of range, image not uint8 [H, W, 3].
    """
    if name not in OP_NAMES:
        # Compared without case: "Autocontrast" and "solarize" are the usual slips.
        lowered = {known.lower(): known for known in OP_NAMES}
        near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown augmentation operation {name!r}; did you mean {lowered[near]!r}?")
    if op_set not in OP_SETS:
        raise UserError(f"op_set must be one of {', '.join(OP_SETS)}, got {op_set!r}")
    check_magnitude(magnitude)
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[-1] not in (3, None):
        raise UserError(
            f"an operation needs a uint8 image [H, W, 3], got {image.dtype.name} {image.shape}"
        )
    if cutout_center is None:
        cutout_center = tf.shape(image)[:2] // 2
    centers = tf.cast(cutout_center, tf.int32)[tf.newaxis]

    def applied(sign: float) -> tf.Tensor:
        action = Action(name, magnitude, sign, translate_const, cutout_const)
        return _apply_action(action, image[tf.newaxis], centers, op_set)[0]

    if isinstance(negate, bool):
        result = applied(-1.0 if negate else 1.0)
    else:
        result = tf.cond(negate, lambda: applied(-1.0), lambda: applied(1.0))
    return tf.ensure_shape(result, image.shape)


def apply_policy(policy: Policy, images: tf.Tensor, draws: Draws, op_set: str) -> tf.Tensor:
    """Applies to each image what was drawn for it, layer by layer.

    The images that drew the same action are treated together, so that each operation runs once for
    a batch, on the images that need it.

    Shapes: images uint8 [B, H, W, 3] in [0, 255], draws of B images -> uint8 [B, H, W, 3].
    """
    shape = images.shape
    positions = tf.range(tf.shape(images)[0])
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    for layer in range(policy.num_layers):
        action = draws.action[:, layer]
        centers = tf.cast(draws.center[:, layer] * size, tf.int32)
        parts = [
            tf.dynamic_partition(values, action, len(policy.actions))
            for values in (positions, images, centers)
        ]
        results = [
            _apply_action(action, some, around, op_set)
            for action, some, around in zip(policy.actions, parts[1], parts[2])
        ]
        images = tf.ensure_shape(tf.dynamic_stitch(parts[0], results), shape)
    return images


def _apply_action(action: Action, images: tf.Tensor, centers: tf.Tensor, op_set: str) -> tf.Tensor:
    if action.op is None:
        return images
    shorter = tf.cast(tf.reduce_min(tf.shape(images)[1:3]), tf.float64)  # As exact as Python's.
    if None not in images.shape[1:3]:
        shorter = min(images.shape[1:3])
    consts = (action.translate_const, action.cutout_const)
    strength = Strength(action.magnitude, action.sign, *consts, shorter, centers)
    return OP_SETS[op_set][action.op](images, strength)
