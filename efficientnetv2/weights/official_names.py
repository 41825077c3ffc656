"""The names that the official checkpoints give to the weights of a network of ours.

Source: official name-based (TF1) checkpoints, without the model's scope: `blocks_3/conv2d/kernel`.
"""

import keras

from efficientnetv2.blocks import FusedMBConv, MBConv
from efficientnetv2.compat import var_path

_BN = "tpu_batch_normalization"
_SE = {"reduce_conv": "se/conv2d", "expand_conv": "se/conv2d_1"}


def official_names(model: keras.Model) -> dict[str, str]:
    """Returns {our path: official name} for every weight of a model that `build_model` built."""
    names = {}
    for layer in model.layers:
        scopes = _block_scopes(layer) if isinstance(layer, (MBConv, FusedMBConv)) else {}
        for weight in layer.weights:
            path = var_path(weight)
            *scope, kind = path.split("/")
            if layer.name == "classifier":
                names[path] = f"head/dense/{kind}"
            elif not scopes:  # stem_conv, stem_bn, head_conv, head_bn
                part, step = layer.name.split("_")
                names[path] = f"{part}/{'conv2d' if step == 'conv' else _BN}/{kind}"
            else:
                step = scope[-1]
                official = _SE[step] if "se" in scope else scopes[step]
                if step == "depthwise_conv":
                    kind = "depthwise_kernel"
                names[path] = f"{layer.name}/{official}/{kind}"
    return names


def _block_scopes(block) -> dict[str, str]:
    """Numbers the convolutions and normalisations of a block in the order of their use."""
    steps = ["depthwise", "project"] if isinstance(block, MBConv) else ["project"]
    if block.expand != 1:
        steps.insert(0, "expand")
    scopes, convolutions = {}, 0
    for number, step in enumerate(steps):
        scopes[f"{step}_bn"] = _BN + (f"_{number}" if number else "")
        if step == "depthwise":
            scopes["depthwise_conv"] = "depthwise_conv2d"
        else:
            scopes[f"{step}_conv"] = "conv2d" + (f"_{convolutions}" if convolutions else "")
            convolutions += 1
    return scopes
