"""RandAugment and AutoAugment: which operation at which strength each image gets.

A policy lists its actions, an action being one operation at one strength and sign, and draws for
each image of a batch one action per layer. Drawing is a pure function of (seed, batch size), apart
from applying (`datasets/augment.py`), so any image of a run can be augmented again for inspection.

Source: official autoaugment.py; arXiv 1909.13719 (RandAugment), 1805.09501 (AutoAugment).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from datasets.op_sets import MAX_MAGNITUDE, OP_NAMES, SIGNED
from hparams import UserError

_DRAWS = 6  # random numbers for each image and layer: up to four to choose by, and a place


class Action(NamedTuple):
    """One operation at one strength; `op` None leaves the image as it is."""

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
    """Actions, and how they are drawn."""

    actions: tuple[Action, ...]
    num_layers: int
    choose: Callable[[tf.Tensor], tf.Tensor]  # float32 [B, L, _DRAWS] in [0, 1) -> int32 [B, L]

    def draw(self, batch_size: int, seed: tf.Tensor) -> Draws:
        """Shapes: seed int64 [2] -> draws for `batch_size` images."""
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
    """Each layer applies one of the sixteen operations, uniformly, with replacement.

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


# Pairs of operation, probability, level. Source: official policy "v0".
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
    """One of the 25 pairs, uniformly; each operation of it with its own probability.

    Source: official policy "v0", arXiv 1805.09501 Table 9; its translations go 250 pixels at level
    10 where RandAugment's go 100.
    """
    consts = (_given(translate_const, 250.0), _given(cutout_const, 100.0))
    actions: list[Action] = [Action()]  # The first leaves the image as it is.
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
    """For each image one of two policies, with equal chances. Source: official "ra_aa"."""
    num_layers = max(first.num_layers, second.num_layers)
    rest = len(first.actions) + len(second.actions)  # The action that leaves the image as it is.

    def padded(policy: Policy, uniform: tf.Tensor, offset: int) -> tf.Tensor:
        chosen = policy.choose(uniform[:, : policy.num_layers]) + offset
        missing = num_layers - policy.num_layers
        return tf.pad(chosen, [[0, 0], [0, missing]], constant_values=rest)

    def choose(uniform: tf.Tensor) -> tf.Tensor:
        heads = uniform[:, 0, 3] < 0.5  # Not among the numbers that the policies choose by.
        of_second = padded(second, uniform, len(first.actions))
        return tf.where(heads[:, tf.newaxis], padded(first, uniform, 0), of_second)

    return Policy((*first.actions, *second.actions, Action()), num_layers, choose)


def policies_of(data, magnitude: float) -> tuple[Policy, ...]:
    """The policies that `data.augname` names, in order; `data` is a `hparams.DataConfig`.

    The fine-tuning names start with "ft" and combine; a Cutout of their own is in
    `datasets/fine_tuning.py`.
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
    """Raises: UserError if a magnitude is out of range."""
    if not 0.0 <= magnitude <= MAX_MAGNITUDE:
        raise UserError(f"RandAugment magnitude must be in [0, {MAX_MAGNITUDE:g}], got {magnitude}")


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
