"""The figures of the official code, and the weights and images that they were computed with.

The rule that makes weights from names is told in every file's origin: see `golden_weight`.
"""

import json
import pathlib
import zlib

import numpy as np

MODELS = pathlib.Path(__file__).parents[1] / "data" / "models"
NAMES = ("efficientnetv2-b0", "efficientnetv2-s", "efficientnet-b0")


def load_golden(name):
    return json.loads((MODELS / f"{name}.json").read_text())


def golden_weight(name, shape, gain):
    """The value of the official variable `name`, root scope included."""
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    kind = name.rsplit("/", 1)[1]
    if kind == "kernel":
        value = n * np.sqrt(gain / np.prod(shape[:-1]))
    elif kind == "depthwise_kernel":
        value = n * np.sqrt(gain / np.prod(shape[:2]))
    else:
        value = {"gamma": 1 + 0.1 * n, "moving_variance": np.exp(0.2 * n)}.get(kind, 0.1 * n)
    return value.astype(np.float32)


def golden_arrays(golden):
    """{official name: value} of all variables."""
    return {
        name: golden_weight(name, tuple(shape), golden["gain"])
        for name, shape in golden["variables"]
    }


def golden_input(size, count=2):
    """Normalised images in [-1, 1], [count, size, size, 3]."""
    rng = np.random.default_rng(size)
    coarse = rng.uniform(-1, 1, (count, 4, 4, 3)).astype(np.float32)
    repeat = -(-size // 4)
    coarse = coarse.repeat(repeat, axis=1).repeat(repeat, axis=2)[:, :size, :size]
    return (0.9 * coarse + 0.1 * rng.uniform(-1, 1, coarse.shape)).astype(np.float32)


def check_logits(logits, golden):
    """Agreement within what float32 allows, in standard deviations of the logits.

    V1-B0 with these weights has logits of some 300 and amplifies rounding: in float64 it differs
    by 6e-4 from itself in float32. On the classic stack, run eagerly, it agrees bit for bit.
    """
    tolerance = 1e-3 if golden["model"] == "efficientnet-b0" else 1e-4
    scale = np.array(golden["logits_std"])[:, None]
    difference = np.abs(logits[:, :32] - golden["logits_head"]) / scale
    np.testing.assert_array_less(difference, tolerance)
    np.testing.assert_allclose(logits.std(axis=1), golden["logits_std"], rtol=tolerance)
    np.testing.assert_array_equal(logits.argmax(axis=1), golden["argmax"])
    assert logits.dtype == np.float32
