"""State dicts of timm: `blocks.1.0.conv_dw.weight`.

Source: timm/models/efficientnet.py, _efficientnet_blocks.py.
"""

import functools
import re
from collections.abc import Mapping

import numpy as np
from absl import logging

from efficientnetv2.weights.preprocessing import Preprocessing
from efficientnetv2.weights.stored import EPSILON, Stored
from efficientnetv2.weights.torch_layout import block_scopes, to_ours, torch_names
from hparams import UserError

TIMM_STEM = "conv_stem.weight"
_BLOCK = r"(blocks\.(\d+)\.(\d+))\."
_OUTER = {
    "stem_conv": "conv_stem",
    "stem_bn": "bn1",
    "head_conv": "conv_head",
    "head_bn": "bn2",
    "classifier": "classifier",
}
_CONVOLUTIONS = {
    ("expand", "depthwise", "project"): ("conv_pw", "conv_dw", "conv_pwl"),
    ("depthwise", "project"): ("conv_dw", "conv_pw"),
    ("expand", "project"): ("conv_exp", "conv_pwl"),
    ("project",): ("conv",),
}
_SE = {"se/reduce_conv": "se.conv_reduce", "se/expand_conv": "se.conv_expand"}
_ARCHITECTURE = re.compile(r"(tf_)?efficientnet(v2)?_(.*)")
_VARIANT = re.compile(r"(b\d|[sml]|xl|l2)(_(ap|ns|ns_475|in21k|in21ft1k))?")
_PYTORCH_EPSILON = 1e-5


def timm_stored(
    path: str,
    arrays: Mapping[str, np.ndarray],
    used_ema: bool,
    architecture: str | None,
    updated: bool,
    preprocessing: Preprocessing | None = None,
) -> Stored:
    """Returns what a state dict of an `EfficientNet` of timm holds.

    A state dict does not tell `tf_efficientnet_b0`, which pads as TensorFlow does, from
    `efficientnet_b0`, which pads as PyTorch does and has another epsilon. `architecture`, where
    the file or its `config.json` names it, does; else the former is assumed, with a warning if
    its statistics were `updated` in PyTorch, as those that were only converted were not.
    Raises: UserError for an architecture whose names are the same but not what it computes.
    """
    is_tf = _is_tf(path, architecture)
    if is_tf is None and updated:
        logging.warning(
            "%s was trained in PyTorch and does not name its architecture: taken for one of timm's "
            "tf_efficientnet*; for one without tf_, put timm's config.json beside it",
            path,
        )
    is_tf = is_tf is not False
    blocks = block_scopes(arrays, _BLOCK)
    bias = arrays.get("classifier.bias")
    return Stored(
        path=path,
        format="timm",
        arrays=arrays,
        names=lambda model: torch_names(model, _OUTER, blocks, _sublayers),
        to_ours=functools.partial(to_ours, epsilon=EPSILON if is_tf else _PYTORCH_EPSILON),
        classifier=("classifier.",),
        head=("conv_head.", "bn2."),
        padding="same" if is_tf else "symmetric",
        preprocessing=preprocessing,
        num_classes=None if bias is None else bias.size,
        used_ema=used_ema,
    )


def _is_tf(path: str, architecture: str | None) -> bool | None:
    """Whether an architecture is a port of the official one; None where nothing tells."""
    name = re.split("[/:]", architecture or "")[-1].split(".")[0]  # hf-hub:timm/NAME.TAG
    match = _ARCHITECTURE.fullmatch(name)
    if match is None:
        return None
    if not _VARIANT.fullmatch(match[3]):
        raise UserError(
            f"{path} holds timm's {name}, which no network here computes; "
            "give one of tf_efficientnetv2_b0 to xl, tf_efficientnet_b0 to l2, or without tf_"
        )
    return match[1] is not None


def _sublayers(parts: list[str]) -> dict[str, str]:
    """Numbers the normalisations of a block in the order of their use."""
    steps = tuple(part for part in parts if part != "se")
    scopes = dict(_SE)
    for number, (step, convolution) in enumerate(zip(steps, _CONVOLUTIONS[steps]), start=1):
        scopes |= {f"{step}_conv": convolution, f"{step}_bn": f"bn{number}"}
    return scopes
