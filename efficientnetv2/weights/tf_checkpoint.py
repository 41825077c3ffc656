"""Reads TensorFlow checkpoints: of our runs, official name-based and official object-based."""

import os
import re

import tensorflow as tf

from efficientnetv2.compat import var_path
from efficientnetv2.weights.official_names import official_names
from efficientnetv2.weights.official_objects import official_object_keys
from efficientnetv2.weights.stored import Stored
from hparams import UserError

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_EMA = "/ExponentialMovingAverage"
_NO_WEIGHT = re.compile(r"(^|/)(global_step|RMSProp(_\d+)?|Momentum|Adam(_\d+)?|beta\d_power)$")


def checkpoint_prefix(path: str) -> str | None:
    """Returns the prefix of the checkpoint at `path`, or of the newest in a folder, or None."""
    prefix = tf.train.latest_checkpoint(path) if os.path.isdir(path) else path
    if prefix is not None:
        prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", prefix)
    return prefix if prefix is not None and tf.io.gfile.glob(f"{prefix}.index") else None


def read_checkpoint(prefix: str, use_ema: bool) -> Stored:
    """Reads a checkpoint of any of the three kinds; averaged weights where it has them.

    Raises: UserError if it cannot be read or holds none of the networks' names.
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
    except (tf.errors.OpError, IndexError, ValueError) as error:  # IndexError: cut short.
        reason = " ".join(str(error).split())[:200]
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
    """`efficientnetv2-s/blocks_3/conv2d/kernel`, with or without an average beside each."""
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
