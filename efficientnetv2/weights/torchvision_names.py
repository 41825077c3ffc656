"""State dicts of torchvision: `features.2.0.block.1.0.weight`.

Source: torchvision/models/efficientnet.py.
"""

import functools
from collections.abc import Mapping

import numpy as np

from efficientnetv2.weights.stored import EPSILON, Stored
from efficientnetv2.weights.torch_layout import block_scopes, to_ours, torch_names
from efficientnetv2.weights.torch_preprocessing import of_torchvision

TORCHVISION_STEM = "features.0.0.weight"
_BLOCK = r"(features\.(\d+)\.(\d+)\.block)\."
_V1_EPSILON = 1e-5
_V1_B5_BLOCKS = 39  # B5 and larger are ports of the official ones and have their epsilon.


def torchvision_stored(path: str, arrays: Mapping[str, np.ndarray], used_ema: bool) -> Stored:
    """Returns what a state dict of `efficientnet_v2_s/m/l` or `efficientnet_b0` to `b7` holds."""
    blocks = block_scopes(arrays, _BLOCK)
    last_stage = max((int(scope.split(".")[1]) for scope in blocks), default=0)
    head = f"features.{last_stage + 1}"
    outer = {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "head_conv": f"{head}.0",
        "head_bn": f"{head}.1",
        "classifier": "classifier.1",
    }
    bias = arrays.get("classifier.1.bias")
    num_classes = None if bias is None else bias.size
    return Stored(
        path=path,
        format="torchvision",
        arrays=arrays,
        names=lambda model: torch_names(model, outer, blocks, _sublayers),
        to_ours=functools.partial(to_ours, epsilon=_epsilon(arrays, blocks)),
        classifier=("classifier.",),
        head=(f"{head}.",),
        padding="symmetric",
        preprocessing=of_torchvision(len(blocks), num_classes),
        num_classes=num_classes,
        used_ema=used_ema,
    )


def _sublayers(parts: list[str]) -> dict[str, str]:
    """Numbers the parts of a block in the order of their use."""
    scopes = {}
    for number, part in enumerate(parts):
        if part == "se":
            scopes |= {"se/reduce_conv": f"{number}.fc1", "se/expand_conv": f"{number}.fc2"}
        else:
            scopes |= {f"{part}_conv": f"{number}.0", f"{part}_bn": f"{number}.1"}
    return scopes


def _epsilon(arrays: Mapping[str, np.ndarray], blocks: list[str]) -> float:
    """That of batch normalisation, which V1 has another of up to B4: V1 starts with a depthwise."""
    first = arrays.get("features.1.0.block.0.0.weight")
    is_v1 = first is not None and first.shape[1:2] == (1,)
    return _V1_EPSILON if is_v1 and len(blocks) < _V1_B5_BLOCKS else EPSILON
