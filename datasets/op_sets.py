"""What a magnitude means to each operation, in the official set and in the corrected one.

A set is a table: name -> (magnitude, sign, context) -> the operation with its argument. Magnitudes
are in [0, 30]; 10 is nominal, above it they extrapolate. To add an operation: one function in
`ops.py` or `geometry.py`, one row here in each set.

Source: official autoaugment.py, bug for bug (official_semantics.md 5.2); the corrected set mends
D43 to D47: every operation leaves the image alone at magnitude 0, except those that have no
magnitude, grows with it, and is relative to the image's size.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from datasets import geometry, ops

MAX_MAGNITUDE = 30.0
REFERENCE_SIZE = 300  # pixels, the last stage of S: there the corrected set moves the same pixels


class Strength(NamedTuple):
    """How strongly, and where, one operation is applied to some images [N, H, W, 3]."""

    magnitude: float
    sign: float  # 1, or -1 for the other direction
    translate_const: float  # pixels at magnitude 10
    cutout_const: float  # half side in pixels at magnitude 10
    image_size: int | tf.Tensor  # pixels, the shorter side; float64 if it is not static
    centers: tf.Tensor  # int32 [N, 2], (row, column) for Cutout

    @property
    def level(self) -> float:
        return self.magnitude / 10.0

    def integer(self, nominal: float) -> int:
        return int(self.level * nominal)

    def signed(self, nominal: float) -> float:
        return self.sign * self.level * nominal

    def official_factor(self) -> float:
        return self.level * 1.8 + 0.1

    def factor(self) -> float:
        """1 at magnitude 0; as far above 1 as the other sign is below, by ratio."""
        return (1.0 + 0.9 * self.level) ** self.sign

    def scaled(self, pixels: float) -> float | tf.Tensor:
        return pixels * self.image_size / REFERENCE_SIZE

    def scaled_integer(self, nominal: float) -> int | tf.Tensor:
        pixels = self.scaled(self.level * nominal)
        return tf.cast(pixels, tf.int32) if tf.is_tensor(pixels) else int(pixels)


Operation = Callable[[tf.Tensor, Strength], tf.Tensor]

_GEOMETRY: dict[str, Operation] = {
    "Rotate": lambda x, s: geometry.rotate(x, s.signed(30.0)),
    "ShearX": lambda x, s: geometry.shear_x(x, s.signed(0.3)),
    "ShearY": lambda x, s: geometry.shear_y(x, s.signed(0.3)),
}

OFFICIAL: dict[str, Operation] = {
    "AutoContrast": lambda x, s: ops.auto_contrast(x),
    "Equalize": lambda x, s: ops.equalize(x),
    "Invert": lambda x, s: ops.invert(x),
    "Rotate": _GEOMETRY["Rotate"],
    "Posterize": lambda x, s: ops.posterize(x, s.integer(4)),
    # The official threshold is a uint8 that wraps, so 256 inverts everything, as 0 does.
    "Solarize": lambda x, s: ops.solarize(x, s.integer(256) % 256),
    "Color": lambda x, s: ops.color(x, s.official_factor()),
    "Contrast": lambda x, s: ops.contrast(x, s.official_factor(), ops.official_contrast_level(x)),
    "Brightness": lambda x, s: ops.brightness(x, s.official_factor()),
    "Sharpness": lambda x, s: ops.sharpness(x, s.official_factor()),
    "ShearX": _GEOMETRY["ShearX"],
    "ShearY": _GEOMETRY["ShearY"],
    "TranslateX": lambda x, s: geometry.translate_x(x, s.signed(s.translate_const)),
    "TranslateY": lambda x, s: geometry.translate_y(x, s.signed(s.translate_const)),
    "Cutout": lambda x, s: geometry.cutout(x, s.integer(s.cutout_const), s.centers),
    "SolarizeAdd": lambda x, s: ops.solarize_add(x, s.integer(110)),
}

CORRECTED: dict[str, Operation] = {
    **OFFICIAL,
    "Posterize": lambda x, s: ops.posterize(x, 8 - round(4 * s.magnitude / 30)),
    "Solarize": lambda x, s: ops.solarize(x, 256 - round(256 * s.magnitude / 30)),
    "Color": lambda x, s: ops.color(x, s.factor()),
    "Contrast": lambda x, s: ops.contrast(x, s.factor(), ops.mean_grey(x)),
    "Brightness": lambda x, s: ops.brightness(x, s.factor()),
    "Sharpness": lambda x, s: ops.sharpness(x, s.factor()),
    "TranslateX": lambda x, s: geometry.translate_x(x, s.scaled(s.signed(s.translate_const))),
    "TranslateY": lambda x, s: geometry.translate_y(x, s.scaled(s.signed(s.translate_const))),
    "Cutout": lambda x, s: geometry.cutout(x, s.scaled_integer(s.cutout_const), s.centers),
}

OP_SETS = {"official": OFFICIAL, "corrected": CORRECTED}
OP_NAMES: tuple[str, ...] = tuple(OFFICIAL)

_MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
SIGNED = {  # operations that go either way, with equal chances
    "official": _MOVING,
    "corrected": (*_MOVING, "Color", "Contrast", "Brightness", "Sharpness"),
}
