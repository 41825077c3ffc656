"""A small network under the name of a published one, and official checkpoints of it."""

import pathlib

import numpy as np
import tensorflow as tf
from golden import golden_weight
from weight_server import make_archive, plain

from efficientnetv2 import Blocks, ModelSpec, build_model
from efficientnetv2.weights.tf_checkpoint import official_names

SPEC = ModelSpec(
    "efficientnetv2-b0",
    (
        Blocks("fused", 1, 3, 2, 2, 8, 8),
        Blocks("mbconv", 1, 3, 2, 2, 8, 16, se_ratio=0.25),
    ),
    head_channels=16,
    normalization="imagenet",
)


def official_arrays(spec=SPEC, num_classes: int = 1000) -> dict:
    """{official name: value} of a network, by the rule of `golden.py`."""
    model = build_model(spec, num_classes=num_classes)
    shapes = {
        name: tuple(w.shape) for name, w in zip(official_names(model).values(), model.weights)
    }
    return {
        f"{spec.name}/{name}": golden_weight(f"{spec.name}/{name}", shape, 2.0)
        for name, shape in shapes.items()
    }


def save_official(arrays, prefix) -> str:
    """Writes a name-based checkpoint and returns its prefix."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(np.asarray(array)) for array in arrays.values()],
    )
    return str(prefix)


def official_archive(arrays, folder: pathlib.Path) -> bytes:
    """An archive such as the published ones; `folder` is for the work."""
    save_official(arrays, folder / "model")
    pointer = plain("b0/checkpoint", b'model_checkpoint_path: "model"')
    files = [plain(f"b0/{path.name}", path.read_bytes()) for path in folder.glob("model.*")]
    return make_archive(members=[pointer, *files])
