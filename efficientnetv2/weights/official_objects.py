"""The keys of the official object-based (TF2) checkpoints, without `/.ATTRIBUTES/...`.

Source: official main_tf2.py: the attributes of its model, `_blocks/3/_expand_conv/kernel`.
"""

import keras

from efficientnetv2.blocks import FusedMBConv, MBConv
from efficientnetv2.compat import var_path

_PARTS = {
    "stem_conv": "_stem/_conv_stem",
    "stem_bn": "_stem/_norm",
    "head_conv": "_head/_conv_head",
    "head_bn": "_head/_norm",
    "classifier": "_fc",
}
_SE = {"reduce_conv": "_se/_se_reduce", "expand_conv": "_se/_se_expand"}


def official_object_keys(model: keras.Model) -> dict[str, str]:
    """Returns {our path: official key} for every weight of a model that `build_model` built."""
    keys = {}
    for layer in model.layers:
        for weight in layer.weights:
            path = var_path(weight)
            *scope, kind = path.split("/")
            if layer.name in _PARTS:
                keys[path] = f"{_PARTS[layer.name]}/{kind}"
                continue
            step = scope[-1]
            if step == "depthwise_conv":
                kind = "depthwise_kernel"
            part = _SE[step] if "se" in scope else _block_part(layer, step)
            index = layer.name.removeprefix("blocks_")
            keys[path] = f"_blocks/{index}/{part}/{kind}"
    return keys


def _block_part(block: MBConv | FusedMBConv, step: str) -> str:
    """The attribute of a step. Normalisations are numbered by role: the fused block has no 2."""
    name, kind = step.split("_")
    if kind == "conv":
        return f"_{step}"
    roles = ["expand", "depthwise", "project"]
    if isinstance(block, FusedMBConv):
        roles.remove("depthwise")
    return f"_norm{roles.index(name)}"
