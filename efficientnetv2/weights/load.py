"""Weight loading from any supported format into a built network.

To add a format, write a reader that returns `Stored` and call it from `read_weights`.
"""

import dataclasses
import os

import keras
import numpy as np

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import as_path
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.network.layers import padding_of, set_normalization, set_padding
from efficientnetv2.weights.keras_files import read_keras_file
from efficientnetv2.weights.stored import Stored
from efficientnetv2.weights.tf_checkpoint import checkpoint_prefix, read_checkpoint
from efficientnetv2.weights.torch_files import read_torch_file

_BY_ENDING = {
    (".h5", ".hdf5", ".keras"): lambda path, use_ema: read_keras_file(path),
    (".pth", ".pt", ".bin", ".pth.tar", ".safetensors"): read_torch_file,
}
STEM = "stem_conv/kernel"


def read_weights(path: str, use_ema: bool = True) -> Stored:
    """Reads a weights file, or the newest checkpoint of a folder.

    Raises: UserError if nothing is found at `path`, or it cannot be read.
    """
    for endings, read in _BY_ENDING.items():
        if path.endswith(endings) and not os.path.isdir(path):
            if not os.path.exists(path):
                raise UserError(f"no weights file {path!r}")
            return read(path, use_ema)
    prefix = checkpoint_prefix(path)
    if prefix is None:
        known = ", ".join(ending for endings in _BY_ENDING for ending in endings)
        raise UserError(
            f"no checkpoint found in {path}; give the folder or prefix of a TensorFlow checkpoint, "
            f"or a file ending in {known}"
        )
    return read_checkpoint(prefix, use_ema)


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Result of loading weights; paths are those of the model's weights, names are the file's."""

    source: str
    step: int | None
    used_ema: bool
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()  # In the model only.
    unexpected: tuple[str, ...] = ()  # In the file only.
    mismatched: tuple[str, ...] = ()  # "path: shape in the file, shape in the model".
    format: str = ""
    unused: tuple[str, ...] = ()  # Of a classifier or head that the model was built without.
    adapted: tuple[str, ...] = ()  # Descriptions of what was changed to fit.


def load_weights(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    use_ema: bool = True,
    skip_mismatch: bool = False,
) -> LoadReport:
    """Loads a file, or the newest checkpoint of a folder, into `model`; the format is detected.

    Formats: checkpoints of our runs; official checkpoints, name-based and object-based; `.h5`,
    `.weights.h5` and `.keras` of `keras.applications` and `.h5` of keras_efficientnet_v2; `.pth`
    and `.safetensors` of timm and torchvision. See `read_weights`.
    With `use_ema`, averaged weights are loaded if there are any. Weights of a classifier or head
    that the model does not have are ignored. A stem trained on three channels is adapted to a
    different number: summed for one channel, otherwise repeated cyclically and scaled by
    3 / channels (as in timm). If the weights were trained with a different padding, or the file
    specifies a different normalization, the model is switched to it. On any error, the model is
    left unchanged.

    Raises: UserError if nothing is found at `path`, it cannot be read, or, without `skip_mismatch`,
    a weight is missing, unexpected or of a different shape.

    Example:
        model = effnet.build_model("efficientnetv2-b0", num_classes=12)
        print(effnet.load_weights(model, "runs/demo").step)
    """
    stored = read_weights(as_path(path, "path"), use_ema)
    known = stored.preprocessing
    return assign(
        model, stored, skip_mismatch=skip_mismatch, normalization=known and known.normalization
    )


def assign(
    model: keras.Model,
    stored: Stored,
    *,
    skip_mismatch: bool = False,
    but: tuple[str, ...] = (),
    normalization: str | None = None,
) -> LoadReport:
    """Assigns stored weights to `model`.

    `but` names layers that keep their weights; `normalization` is the one to switch the model to.
    """
    if stored.format != "run" and STEM not in map(var_path, model.weights):
        raise UserError(f"{stored.path} holds an EfficientNet, and {model.name} is none of ours")
    own = {var_path(w): w for w in model.weights if var_path(w).split("/")[0] not in but}
    names = {path: name for path, name in stored.names(model).items() if path in own}
    values, adapted = {}, []
    for path, name in names.items():
        if name in stored.arrays:
            values[path] = stored.to_ours(path, stored.arrays[name])
    channels = tuple(own[STEM].shape)[2] if STEM in values else 3
    if channels != 3 and values[STEM].shape[2:3] == (3,):
        values[STEM] = adapt_stem(values[STEM], channels)
        adapted.append(f"{STEM}: from 3 to {channels} channels")
    mismatched = {
        path: f"{path}: {value.shape}, {tuple(own[path].shape)}"
        for path, value in values.items()
        if value.shape != tuple(own[path].shape)
    }
    loaded = {path: value for path, value in values.items() if path not in mismatched}
    left = sorted(set(stored.arrays) - set(names.values()))
    aside = _parts_without_layer(model, stored, but)
    switch = stored.padding not in (None, padding_of(model))
    if switch:
        adapted.append(f"padding: {padding_of(model)} -> {stored.padding}")
    report = LoadReport(
        source=stored.path,
        step=stored.step,
        used_ema=stored.used_ema,
        loaded=tuple(loaded),
        missing=tuple(path for path in own if path not in values),
        unexpected=tuple(name for name in left if not name.startswith(aside)),
        mismatched=tuple(mismatched.values()),
        format=stored.format,
        unused=tuple(name for name in left if name.startswith(aside)),
        adapted=tuple(adapted),
    )
    if not skip_mismatch:
        _check(report)
    for path, value in loaded.items():
        tf_variable(own[path]).assign(value)
    if switch:
        set_padding(model, stored.padding)
    if normalization and set_normalization(model, normalization):
        report = dataclasses.replace(
            report, adapted=(*report.adapted, f"normalization: {normalization}")
        )
    return report


def adapt_stem(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Converts a kernel for three channels to a different number of channels.

    Shapes: [k, k, 3, filters] -> [k, k, channels, filters]. One channel gets the sum, so that a
    gray image gives the same result as three equal channels. For other numbers, the three are
    repeated cyclically and scaled by 3 / channels, which preserves the magnitude of the sum.
    Source: timm's `adapt_input_conv`.
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, [i % 3 for i in range(channels)]] * np.float32(3 / channels)


def _parts_without_layer(model, stored: Stored, but) -> tuple[str, ...]:
    """Returns name prefixes of parts that the model lacks or that keep their weights."""
    layers = {layer.name for layer in model.layers} - set(but)
    aside = () if "classifier" in layers else stored.classifier
    return aside if "head_conv" in layers else (*aside, *stored.head)


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
