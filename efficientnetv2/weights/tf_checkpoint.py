"""Reader of TensorFlow checkpoints: our runs, official name-based and official object-based.

Source: official name-based (TF1) checkpoints, without the model's scope: `blocks_3/conv2d/kernel`;
official main_tf2.py: the attributes of its model, `_blocks/3/_expand_conv/kernel`, without
`/.ATTRIBUTES/...`.
"""

import os
import re

import keras
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line
from efficientnetv2.network.blocks import FusedMBConv, MBConv
from efficientnetv2.network.compat import var_path
from efficientnetv2.weights.stored import Stored

_BN = "tpu_batch_normalization"
_NAME_SE = {"reduce_conv": "se/conv2d", "expand_conv": "se/conv2d_1"}
_PARTS = {
    "stem_conv": "_stem/_conv_stem",
    "stem_bn": "_stem/_norm",
    "head_conv": "_head/_conv_head",
    "head_bn": "_head/_norm",
    "classifier": "_fc",
}
_OBJECT_SE = {"reduce_conv": "_se/_se_reduce", "expand_conv": "_se/_se_expand"}
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_EMA = "/ExponentialMovingAverage"
_NO_WEIGHT = re.compile(r"(^|/)(global_step|RMSProp(_\d+)?|Momentum|Adam(_\d+)?|beta\d_power)$")


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
                official = _NAME_SE[step] if "se" in scope else scopes[step]
                if step == "depthwise_conv":
                    kind = "depthwise_kernel"
                names[path] = f"{layer.name}/{official}/{kind}"
    return names


def _block_scopes(block) -> dict[str, str]:
    """Numbers the convolutions and normalizations of a block in order of use."""
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
            part = _OBJECT_SE[step] if "se" in scope else _block_part(layer, step)
            index = layer.name.removeprefix("blocks_")
            keys[path] = f"_blocks/{index}/{part}/{kind}"
    return keys


def _block_part(block: MBConv | FusedMBConv, step: str) -> str:
    """Returns the attribute of a step; norms are numbered by role, so a fused block has no 2."""
    name, kind = step.split("_")
    if kind == "conv":
        return f"_{step}"
    roles = ["expand", "depthwise", "project"]
    if isinstance(block, FusedMBConv):
        roles.remove("depthwise")
    return f"_norm{roles.index(name)}"


def checkpoint_prefix(path: str) -> str | None:
    """Returns the prefix of the checkpoint at `path`, or of the newest in a folder, or None."""
    prefix = tf.train.latest_checkpoint(path) if os.path.isdir(path) else path
    if prefix is not None:
        prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", prefix)
    return prefix if prefix is not None and tf.io.gfile.glob(f"{prefix}.index") else None


def read_checkpoint(prefix: str, use_ema: bool) -> Stored:
    """Reads a checkpoint of any of the three kinds, with `use_ema` its averaged weights, if any.

    Raises: UserError if it cannot be read or does not contain a network's names.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        keys = reader.get_variable_to_shape_map()
        if any(key.startswith("weights/") for key in keys):
            return _of_a_run(prefix, reader, keys, use_ema)
        if any("_stem/_conv_stem/" in key for key in keys):
            return _object_based(prefix, reader, keys)
        if any(re.search(r"(^|/)stem/conv2d/kernel", key) for key in keys):
            return _name_based(prefix, reader, keys, use_ema)
    except (tf.errors.OpError, IndexError, ValueError) as error:  # IndexError: truncated.
        reason = one_line(str(error))
        raise UserError(f"cannot read checkpoint {prefix}: {reason}") from error
    some = ", ".join(sorted(keys)[:3])
    raise UserError(f"{prefix} is no checkpoint of an EfficientNet; it holds {some}, ...")


def _of_a_run(prefix, reader, keys, use_ema) -> Stored:
    use_ema = use_ema and any(key.startswith("ema/") for key in keys)
    scope = "ema/" if use_ema else "weights/"
    arrays = {
        key[len(scope) : -len(_VALUE)].replace(".S", "/").replace("..", "."): reader.get_tensor(key)
        for key in keys
        if key.startswith(scope) and key.endswith(_VALUE)
    }
    return Stored(
        path=prefix,
        format="run",
        arrays=arrays,
        names=lambda model: {path: path for path in map(var_path, model.weights)},
        classifier=("classifier/",),
        head=("head_conv/", "head_bn/"),
        padding=None,
        step=int(reader.get_tensor(f"step{_VALUE}")) if f"step{_VALUE}" in keys else None,
        used_ema=use_ema,
    )


def _name_based(prefix, reader, keys, use_ema) -> Stored:
    """Reads names like `efficientnetv2-s/blocks_3/conv2d/kernel`, with or without averages."""
    plain = {key for key in keys if not key.endswith(_EMA) and not _NO_WEIGHT.search(key)}
    plain |= {key.removesuffix(_EMA) for key in keys if key.endswith(_EMA)}
    arrays, averaged = {}, False
    for key in sorted(plain):
        ema = f"{key}{_EMA}"
        take_ema = ema in keys and (use_ema or key not in keys)
        averaged |= take_ema
        name = re.sub(r"^.*?(?=(stem|blocks_\d+|head|head_1)/)", "", key)  # The model's scope.
        name = name.replace("head_1/dense/", "head/dense/")
        arrays[name] = reader.get_tensor(ema if take_ema else key)
    step = int(reader.get_tensor("global_step")) if "global_step" in keys else None
    return Stored(
        path=prefix,
        format="official, by name",
        arrays=arrays,
        names=official_names,
        classifier=("head/dense/",),
        head=("head/conv2d/", "head/tpu_batch_normalization/"),
        step=step,
        used_ema=averaged,
    )


def _object_based(prefix, reader, keys) -> Stored:
    arrays = {}
    for key in sorted(keys):
        name = re.search(r"(?:^|/)((?:_stem|_blocks|_head|_fc)/.*)$", key.removesuffix(_VALUE))
        of_optimizer = ".OPTIMIZER_SLOT" in key or "optimizer" in key
        if name and key.endswith(_VALUE) and not of_optimizer:
            arrays[name[1]] = reader.get_tensor(key)
    return Stored(
        path=prefix,
        format="official, by object",
        arrays=arrays,
        names=official_object_keys,
        classifier=("_fc/",),
        head=("_head/",),
    )
