"""RandAugment and AutoAugment policies: operation sets, drawing actions, and applying them.

An operation set maps a name to a function of (images, `Strength`) that calls the operation.
Magnitudes are in [0, 30]; 10 is nominal, and higher values extrapolate. To add an operation, add a
function to `ops.py` and a row to each set here.

A policy lists its actions, each of which is an operation with a magnitude and a sign, and draws one
action per layer for each image of a batch. Drawing is a pure function of (seed, batch size) and
separate from applying, so any image of a run can be augmented again for inspection.

Source: official autoaugment.py, bug for bug; arXiv 1909.13719 (RandAugment), 1805.09501
(AutoAugment). The corrected set fixes D43 to D47 (docs/deviations.md): except for those without a
magnitude, every operation leaves the image unchanged at magnitude 0, gets stronger with it, and
scales with the image's size.
"""

import difflib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.datasets.augment import ops

MAX_MAGNITUDE = 30.0
REFERENCE_SIZE = 300  # pixels, the last stage of S; at this size both sets have the same distances
_MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
SIGNED = {  # operations with a direction, drawn with equal probability
    "official": _MOVING,
    "corrected": (*_MOVING, "Color", "Contrast", "Brightness", "Sharpness"),
}
_DRAWS = 6  # random numbers per image and layer: up to four for the choice, two for a position


class Strength(NamedTuple):
    """Strength and position of one operation that is applied to images [N, H, W, 3]."""

    magnitude: float
    sign: float  # 1, or -1 for the other direction
    translate_const: float  # pixels at magnitude 10
    cutout_const: float  # half side in pixels at magnitude 10
    image_size: int | tf.Tensor  # pixels, the shorter side; float64 if it is not static
    centers: tf.Tensor  # int32 [N, 2], (row, column) for Cutout

    @property
    def level(self) -> float:
        """The magnitude relative to the nominal one, 10."""
        return self.magnitude / 10.0

    def integer(self, nominal: float) -> int:
        """Returns an integer that is `nominal` at magnitude 10."""
        return int(self.level * nominal)

    def signed(self, nominal: float) -> float:
        """Returns a number that is `nominal` at magnitude 10, in the drawn direction."""
        return self.sign * self.level * nominal

    def official_factor(self) -> float:
        """Returns the factor of color operations: 0.1 at magnitude 0, 1.9 at 10."""
        return self.level * 1.8 + 0.1

    def factor(self) -> float:
        """Returns 1 at magnitude 0; the factors of the two signs are reciprocal."""
        return (1.0 + 0.9 * self.level) ** self.sign

    def scaled(self, pixels: float) -> float | tf.Tensor:
        """Returns pixels in proportion to the image size; unchanged at `REFERENCE_SIZE`."""
        return pixels * self.image_size / REFERENCE_SIZE

    def scaled_integer(self, nominal: float) -> int | tf.Tensor:
        """Returns whole pixels: `nominal` at magnitude 10 and `REFERENCE_SIZE`."""
        pixels = self.scaled(self.level * nominal)
        return tf.cast(pixels, tf.int32) if tf.is_tensor(pixels) else int(pixels)


Operation = Callable[[tf.Tensor, Strength], tf.Tensor]
_GEOMETRY: dict[str, Operation] = {
    "Rotate": lambda x, s: ops.rotate(x, s.signed(30.0)),
    "ShearX": lambda x, s: ops.shear_x(x, s.signed(0.3)),
    "ShearY": lambda x, s: ops.shear_y(x, s.signed(0.3)),
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
    "TranslateX": lambda x, s: ops.translate_x(x, s.signed(s.translate_const)),
    "TranslateY": lambda x, s: ops.translate_y(x, s.signed(s.translate_const)),
    "Cutout": lambda x, s: ops.cutout(x, s.integer(s.cutout_const), s.centers),
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
    "TranslateX": lambda x, s: ops.translate_x(x, s.scaled(s.signed(s.translate_const))),
    "TranslateY": lambda x, s: ops.translate_y(x, s.scaled(s.signed(s.translate_const))),
    "Cutout": lambda x, s: ops.cutout(x, s.scaled_integer(s.cutout_const), s.centers),
}

OP_SETS = {"official": OFFICIAL, "corrected": CORRECTED}
OP_NAMES: tuple[str, ...] = tuple(OFFICIAL)


class Action(NamedTuple):
    """One operation at one strength; `op` None leaves the image unchanged."""

    op: str | None = None
    magnitude: float = 0.0
    sign: float = 1.0
    translate_const: float = 100.0
    cutout_const: float = 40.0


class Draws(NamedTuple):
    """The random part of a policy for B images and L layers."""

    action: tf.Tensor  # int32 [B, L], index into the policy's actions
    center: tf.Tensor  # float32 [B, L, 2] in [0, 1), Cutout's (row, column) as a share of the image


class Policy(NamedTuple):
    """A list of actions and the rule by which they are drawn."""

    actions: tuple[Action, ...]
    num_layers: int
    choose: Callable[[tf.Tensor], tf.Tensor]  # float32 [B, L, _DRAWS] in [0, 1) -> int32 [B, L]

    def draw(self, batch_size: int, seed: tf.Tensor) -> Draws:
        """Returns the draws for `batch_size` images. Shapes: seed int64 [2]."""
        uniform = tf.random.stateless_uniform([batch_size, self.num_layers, _DRAWS], seed)
        return Draws(self.choose(uniform), uniform[..., -2:])


def rand_augment(
    magnitude: float,
    *,
    num_layers: int = 2,
    op_set: str = "official",
    translate_const: float | None = None,
    cutout_const: float | None = None,
) -> Policy:
    """Returns RandAugment: each layer draws one of sixteen operations, uniformly, with replacement.

    Raises: UserError if the magnitude is out of range.
    Source: official `distort_image_with_randaugment`, which always applies what it draws.
    """
    check_magnitude(magnitude)
    consts = (_given(translate_const, 100.0), _given(cutout_const, 40.0))
    actions, table = [], []
    for name in OP_NAMES:
        signs = (1.0, -1.0) if name in SIGNED[op_set] else (1.0,)
        table.append((len(actions), len(actions) + len(signs) - 1))
        actions += [Action(name, magnitude, sign, *consts) for sign in signs]

    def choose(uniform: tf.Tensor) -> tf.Tensor:
        op = tf.cast(uniform[..., 0] * len(OP_NAMES), tf.int32)
        negate = tf.cast(uniform[..., 1] < 0.5, tf.int32)
        return tf.gather_nd(tf.constant(table, tf.int32), tf.stack([op, negate], axis=-1))

    return Policy(tuple(actions), num_layers, choose)


# Pairs of (operation, probability, level). Source: official policy "v0".
AUTO_AUGMENT_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


def auto_augment(
    *,
    op_set: str = "official",
    translate_const: float | None = None,
    cutout_const: float | None = None,
) -> Policy:
    """Returns AutoAugment: one of 25 pairs, uniformly; each operation with its own probability.

    Source: official policy "v0", arXiv 1805.09501 Table 9; it translates by 250 pixels at level 10,
    RandAugment by 100.
    """
    consts = (_given(translate_const, 250.0), _given(cutout_const, 100.0))
    actions: list[Action] = [Action()]  # The first leaves the image unchanged.
    chances = np.array([[step[1] for step in pair] for pair in AUTO_AUGMENT_V0], np.float32)
    table = np.zeros((len(AUTO_AUGMENT_V0), 2, 2), np.int32)  # pair, layer, negate -> action
    for (pair, layer, negate), _ in np.ndenumerate(table):
        name, _, level = AUTO_AUGMENT_V0[pair][layer]
        sign = -1.0 if negate and name in SIGNED[op_set] else 1.0
        action = Action(name, float(level), sign, *consts)
        if action not in actions:
            actions.append(action)
        table[pair, layer, negate] = actions.index(action)

    def choose(uniform: tf.Tensor) -> tf.Tensor:
        pair = tf.cast(uniform[:, 0, 0] * len(AUTO_AUGMENT_V0), tf.int32)
        negate = tf.cast(uniform[..., 1] < 0.5, tf.int32)
        drawn = tf.gather_nd(tf.gather(table, pair), negate[..., tf.newaxis], batch_dims=2)
        return tf.where(uniform[..., 2] < tf.gather(chances, pair), drawn, 0)

    return Policy(tuple(actions), 2, choose)


def either(first: Policy, second: Policy) -> Policy:
    """Returns a policy that picks one of two at random for each image. Source: official "ra_aa"."""
    num_layers = max(first.num_layers, second.num_layers)
    rest = len(first.actions) + len(second.actions)  # The action that leaves the image unchanged.

    def padded(policy: Policy, uniform: tf.Tensor, offset: int) -> tf.Tensor:
        chosen = policy.choose(uniform[:, : policy.num_layers]) + offset
        missing = num_layers - policy.num_layers
        return tf.pad(chosen, [[0, 0], [0, missing]], constant_values=rest)

    def choose(uniform: tf.Tensor) -> tf.Tensor:
        heads = uniform[:, 0, 3] < 0.5  # A number that the policies do not use.
        of_second = padded(second, uniform, len(first.actions))
        return tf.where(heads[:, tf.newaxis], padded(first, uniform, 0), of_second)

    return Policy((*first.actions, *second.actions, Action()), num_layers, choose)


def policies_of(data, magnitude: float) -> tuple[Policy, ...]:
    """Returns the policies that `data.augname` names, in order; `data` is a `hparams.DataConfig`.

    Fine-tuning names start with "ft" and can be combined; their Cutout is `ops.noise_cutout`.
    """
    settings = {
        "op_set": data.op_set,
        "translate_const": data.translate_const,
        "cutout_const": data.cutout_const,
    }

    def random() -> Policy:
        return rand_augment(magnitude, num_layers=data.ra_num_layers, **settings)

    name = data.augname or ""
    if name == "ra_aa":
        return (either(random(), auto_augment(**settings)),)
    policies = [auto_augment(**settings)] if "autoaug" in name else []
    return tuple(policies + ([random()] if "randaug" in name else []))


def check_magnitude(magnitude: float) -> None:
    """Raises UserError if a magnitude is out of range."""
    if not 0.0 <= magnitude <= MAX_MAGNITUDE:
        raise UserError(f"RandAugment magnitude must be in [0, {MAX_MAGNITUDE:g}], got {magnitude}")


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


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
    Units: translate_const and cutout_const are pixels at magnitude 10: for any image in the
        official set; for an image of 300 pixels in the corrected one, in proportion for others.

    Args:
        name: one of OP_NAMES.
        image: the image, static or dynamic in size.
        magnitude: strength in [0, 30]; 10 is nominal, and higher values extrapolate.
        negate: use the other direction, if the operation has one.
        op_set: "official", bug for bug, or "corrected"; see the module's docstring.
        cutout_center: (row, column) for Cutout; the middle of the image if None.
        translate_const: distance of the translations; official 100 (RandAugment).
        cutout_const: half the side of the Cutout square; official 40 (RandAugment).

    Raises:
        UserError: unknown name or set, magnitude out of range, image not uint8 [H, W, 3].
    """
    if name not in OP_NAMES:
        # Case-insensitive: "Autocontrast" and "solarize" are common mistakes.
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
    """Applies the drawn actions to the images, layer by layer.

    Images that drew the same action are processed together, so that each operation runs once per
    batch, on the images that need it.

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
    shorter = tf.cast(tf.reduce_min(tf.shape(images)[1:3]), tf.float64)  # As precise as in Python.
    if None not in images.shape[1:3]:
        shorter = min(images.shape[1:3])
    consts = (action.translate_const, action.cutout_const)
    strength = Strength(action.magnitude, action.sign, *consts, shorter, centers)
    return OP_SETS[op_set][action.op](images, strength)
