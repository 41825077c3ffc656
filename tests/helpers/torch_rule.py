"""Weights by rule, for figures of PyTorch's libraries; needs neither TensorFlow nor it.

A weight follows from the library, the model and its name there: `timm/tf_efficientnet_b0/bn1.bias`.
"""

import zlib

import numpy as np

SIZES = (64, 75, 96)  # pixels; at even ones the paddings differ
CLASSES = 10


def make_weight(prefix: str, name: str, shape, gain: float) -> np.ndarray:
    """Shapes: as PyTorch has them, [out, in, h, w]. `gain` keeps activations from dying out."""
    seed = zlib.crc32(f"{prefix}/{name}".encode())
    n = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return n * np.float32(np.sqrt(gain / np.prod(shape[1:])))
    kind = name.rsplit(".", 1)[1]
    return {"weight": 1 + np.float32(0.1) * n, "running_var": np.exp(np.float32(0.2) * n)}.get(
        kind, np.float32(0.1) * n
    )
