"""RandAugment: which operation at which strength, drawn apart from applied.

`draw_rand_augment` draws, `rand_augment` applies; both are pure functions of their arguments, so
any image of a run can be augmented again for inspection.

Source: official autoaugment.py (`distort_image_with_randaugment`); arXiv 1909.13719.
"""

import difflib
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from datasets import ops
from hparams import UserError

_LEVEL_SCALE = 10.0  # the magnitude at which an operation has its nominal strength
MAX_MAGNITUDE = 30.0


class _Strength(NamedTuple):
    """What the magnitude means to each operation: the official level-to-argument rules."""

    magnitude: float
    negate: bool | tf.Tensor
    cutout_center: tuple[int, int] | tf.Tensor
    translate_const: float
    cutout_const: float

    def integer(self, nominal: float) -> int:
        return int(self.magnitude / _LEVEL_SCALE * nominal)

    def signed(self, nominal: float) -> tf.Tensor:
        value = self.magnitude / _LEVEL_SCALE * nominal
        return tf.where(self.negate, -value, value)

    def factor(self) -> float:
        return self.magnitude / _LEVEL_SCALE * 1.8 + 0.1


_OPS: dict[str, Callable[[tf.Tensor, _Strength], tf.Tensor]] = {
    "AutoContrast": lambda image, s: ops.auto_contrast(image),
    "Equalize": lambda image, s: ops.equalize(image),
    "Invert": lambda image, s: ops.invert(image),
    "Rotate": lambda image, s: ops.rotate(image, s.signed(30.0)),
    "Posterize": lambda image, s: ops.posterize(image, s.integer(4)),
    "Solarize": lambda image, s: ops.solarize(image, s.integer(256)),
    "Color": lambda image, s: ops.color(image, s.factor()),
    "Contrast": lambda image, s: ops.contrast(image, s.factor()),
    "Brightness": lambda image, s: ops.brightness(image, s.factor()),
    "Sharpness": lambda image, s: ops.sharpness(image, s.factor()),
    "ShearX": lambda image, s: ops.shear_x(image, s.signed(0.3)),
    "ShearY": lambda image, s: ops.shear_y(image, s.signed(0.3)),
    "TranslateX": lambda image, s: ops.translate_x(image, s.signed(s.translate_const)),
    "TranslateY": lambda image, s: ops.translate_y(image, s.signed(s.translate_const)),
    "Cutout": lambda image, s: ops.cutout(image, s.integer(s.cutout_const), s.cutout_center),
    "SolarizeAdd": lambda image, s: ops.solarize_add(image, s.integer(110)),
}

OP_NAMES: tuple[str, ...] = tuple(_OPS)


class Draws(NamedTuple):
    """The random part of RandAugment for one image and L layers; a plain structure of tensors."""

    op: tf.Tensor  # int32 [L], index into OP_NAMES
    negate: tf.Tensor  # bool [L], the sign of rotations, shears and translations
    center: tf.Tensor  # float32 [L, 2] in [0, 1), Cutout's (row, column) as a share of the image


def draw_rand_augment(seed: tf.Tensor, num_layers: int = 2) -> Draws:
    """Draws operations (uniform, with replacement), signs and Cutout centres from one seed.

    Shapes: seed int64 [2] -> Draws of num_layers layers.
    """
    uniform = tf.random.stateless_uniform([num_layers, 4], seed)  # in [0, 1)
    return Draws(
        op=tf.cast(uniform[:, 0] * len(OP_NAMES), tf.int32),
        negate=uniform[:, 1] < 0.5,
        center=uniform[:, 2:],
    )


def apply_op(
    name: str,
    image: tf.Tensor,
    magnitude: float,
    negate: bool | tf.Tensor = False,
    *,
    cutout_center: tuple[int, int] | tf.Tensor | None = None,
    translate_const: float = 100.0,
    cutout_const: float = 40.0,
) -> tf.Tensor:
    """Applies one named operation; deterministic.

    Shapes: image uint8 [H, W, 3] in [0, 255] -> same.
    Units: translate_const and cutout_const in pixels at magnitude 10, whatever the image size.

    Args:
        name: one of OP_NAMES.
        image: the image, static or dynamic in size.
        magnitude: strength in [0, 30]; 10 is nominal, above it extrapolates.
        negate: the other direction, for rotations, shears and translations.
        cutout_center: (row, column) for Cutout; the middle of the image if None.
        translate_const: how far the translations go; official 100 (RandAugment).
        cutout_const: half the side of the Cutout square; official 40 (RandAugment).

    Raises:
        UserError: unknown name, magnitude out of range, image not uint8 [H, W, 3].
    """
    if name not in _OPS:
        # Compared without case: "Autocontrast" and "solarize" are the usual slips.
        lowered = {known.lower(): known for known in OP_NAMES}
        near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.0)[0]
        raise UserError(f"unknown augmentation operation {name!r}; did you mean {lowered[near]!r}?")
    image = _check(image, magnitude)
    if cutout_center is None:
        cutout_center = tf.shape(image)[:2] // 2
    strength = _Strength(magnitude, negate, cutout_center, translate_const, cutout_const)
    return _OPS[name](image, strength)


def rand_augment(
    image: tf.Tensor,
    draws_or_seed: Draws | tf.Tensor,
    magnitude: float,
    *,
    num_layers: int = 2,
    translate_const: float = 100.0,
    cutout_const: float = 40.0,
) -> tf.Tensor:
    """Applies the drawn operations one after the other; only those drawn are executed.

    Shapes: image uint8 [H, W, 3] in [0, 255] -> same, static size kept.

    Args:
        image: the image.
        draws_or_seed: what `draw_rand_augment` returned, or the seed, int64 [2], to draw from.
        magnitude: strength in [0, 30], the same for all operations.
        num_layers: operations per image when a seed is given; draws carry their own number.
        translate_const: see `apply_op`.
        cutout_const: see `apply_op`.

    Raises:
        UserError: magnitude out of range, image not uint8 [H, W, 3].
    """
    image = _check(image, magnitude)
    draws = draws_or_seed
    if not isinstance(draws, Draws):
        draws = draw_rand_augment(draws_or_seed, num_layers)
    size = tf.shape(image)[:2]
    for layer in range(draws.op.shape[0]):
        center = tf.cast(draws.center[layer] * tf.cast(size, tf.float32), tf.int32)
        strength = _Strength(magnitude, draws.negate[layer], center, translate_const, cutout_const)
        branches = [lambda op=op, image=image, s=strength: op(image, s) for op in _OPS.values()]
        image = tf.switch_case(draws.op[layer], branches)
    return image


def _check(image: tf.Tensor, magnitude: float) -> tf.Tensor:
    """Returns the image as a tensor, or raises UserError for what no operation can take."""
    if not 0.0 <= magnitude <= MAX_MAGNITUDE:
        raise UserError(f"RandAugment magnitude must be in [0, {MAX_MAGNITUDE:g}], got {magnitude}")
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[-1] not in (3, None):
        raise UserError(
            f"RandAugment needs a uint8 image [H, W, 3], got {image.dtype.name} {image.shape}"
        )
    return image
