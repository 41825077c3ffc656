"""Reads the weights of a run's checkpoint: the averaged ones unless told otherwise."""

import dataclasses
import os

import keras
import tensorflow as tf

from efficientnetv2.compat import tf_variable, var_path
from hparams import UserError

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a load did; paths are those of the model's weights."""

    source: str
    step: int | None
    used_ema: bool
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()  # In the model only.
    unexpected: tuple[str, ...] = ()  # In the file only.
    mismatched: tuple[str, ...] = ()  # "path: shape in the file, shape in the model".


def load_weights(
    model: keras.Model, path: str, *, use_ema: bool = True, skip_mismatch: bool = False
) -> LoadReport:
    """Loads a checkpoint of a run, or the newest one of its `model_dir`, into `model`.

    Either Keras generation reads what the other wrote. `use_ema` takes the averaged weights where
    the run kept them. Nothing is assigned if anything is wrong.

    Raises: UserError if there is no checkpoint, it cannot be read, or, without `skip_mismatch`,
    a weight is missing, left over or of another shape.
    """
    checkpoint = tf.train.latest_checkpoint(path) if os.path.isdir(path) else path
    if checkpoint is None or not tf.io.gfile.glob(f"{checkpoint}.index"):
        raise UserError(f"no checkpoint found in {path}; train first or give another --model_dir")
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        shapes = reader.get_variable_to_shape_map()
        use_ema = use_ema and any(key.startswith("ema/") for key in shapes)
        prefix = "ema/" if use_ema else "weights/"
        stored = {
            key[len(prefix) : -len(_VALUE)].replace(".S", "/").replace("..", "."): key
            for key in shapes
            if key.startswith(prefix) and key.endswith(_VALUE)
        }
        own = {var_path(weight): weight for weight in model.weights}
        matching = [path for path in own if path in stored]
        mismatched = {
            path: f"{path}: {tuple(shapes[stored[path]])}, {tuple(own[path].shape)}"
            for path in matching
            if list(shapes[stored[path]]) != list(own[path].shape)
        }
        loaded = [path for path in matching if path not in mismatched]
        values = {path: reader.get_tensor(stored[path]) for path in loaded}
        step = int(reader.get_tensor(f"step{_VALUE}")) if f"step{_VALUE}" in shapes else None
    except (tf.errors.OpError, IndexError, ValueError) as error:  # IndexError: cut short.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read checkpoint {checkpoint}: {reason}") from error
    report = LoadReport(
        source=checkpoint,
        step=step,
        used_ema=use_ema,
        loaded=tuple(loaded),
        missing=tuple(path for path in own if path not in stored),
        unexpected=tuple(path for path in stored if path not in own),
        mismatched=tuple(mismatched.values()),
    )
    if not skip_mismatch:
        _check(report)
    for path, value in values.items():
        tf_variable(own[path]).assign(value)
    return report


def _check(report: LoadReport) -> None:
    for what, paths in (
        ("lacks weights of the model", report.missing),
        ("has weights that the model lacks", report.unexpected),
        ("has weights of another shape (file, model)", report.mismatched),
    ):
        if paths:
            raise UserError(
                f"{report.source} {what}: {len(paths)}, first {paths[0]}; "
                "build the model that was trained, or pass skip_mismatch=True"
            )
