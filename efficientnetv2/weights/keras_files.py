"""Reader of Keras files (`.h5`, `.weights.h5`, `.keras`) with EfficientNets of keras.applications
or keras_efficientnet_v2.

Only numbers and JSON are read: nothing that a file describes is built or run, and no other file
that it may refer to is opened.
"""

import dataclasses
import functools
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence

import h5py
import numpy as np

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.text import one_line
from efficientnetv2.hparams.config import NORMALIZATIONS
from efficientnetv2.network.layers import scale_and_offset
from efficientnetv2.weights.keras_names import (
    find_layout,
    layers_by_class,
    names_in_order,
    names_of_paths,
)
from efficientnetv2.weights.stored import EPSILON, Preprocessing, Stored, with_our_epsilon

MAX_BYTES = 8 * 2**30  # L2 takes 2 GB (480 million weights), its optimizer slots twice that.
_BFLOAT16 = np.dtype("V2")  # As Keras 3 writes it.
_IN_LAYERS = re.compile(r"(^|/)(layers|_layer_checkpoint_dependencies)/")  # The latter: Keras 2.13.
_DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    RecursionError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
_KEEP_VALUES = ("InputLayer", "ZeroPadding2D", "Resizing", "CenterCrop")
_TOLERANCE = 1e-3  # Of a normalized value; (x - 128) / 128 and (x - 127.5) / 127.5 differ by 8e-3.
_STATISTICS = ("mean", "variance", "count")  # Weights of a Normalization layer.
_TORCH_PADDING = "stem_pad"  # A layer of keras_efficientnet_v2 with `is_torch_mode`, ...
_TORCH_EPSILON = 1e-5  # ... which also sets this epsilon.


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """Content of a Keras file.

    `arrays` contains the floating-point arrays. With `by_name`, they are named by layer and weight,
    such as `stem_conv/kernel`. Otherwise the file does not store layer names, and an array is named
    by its path, such as `layers/conv2d_3/vars/0`: class and number of the layer, number of the
    weight. `layers` are the layer names in the file, including layers without weights. `config`
    describes the model, or is None if only weights were saved.
    """

    arrays: dict[str, np.ndarray]
    by_name: bool
    layers: frozenset[str]
    config: dict | None


def open_keras_file(path: str) -> KerasFile:
    """Reads a whole file, detecting its format from its content.

    Raises: UserError if it is damaged, too large, or neither HDF5 nor a `.keras` archive.
    """
    try:
        with open(path, "rb"):  # Raises the reason if it cannot be opened.
            pass
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return _read(file, _json(file.attrs.get("model_config")))
        if zipfile.is_zipfile(path):
            return _read_archive(path)
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except _DAMAGE as error:
        reason = one_line(error)
        raise UserError(f"cannot read {path}: {reason}; it may be cut short or damaged") from error
    raise UserError(f"cannot read {path}: it is neither an HDF5 file nor a .keras archive")


def _read_archive(path: str) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for needed in ("config.json", "model.weights.h5"):
            if needed not in members:
                raise UserError(f"is no .keras archive: it lacks {needed}")
            _check_size(members[needed].file_size, needed)
        config = _json(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
            return _read(file, config)


def _read(file: h5py.File, config: dict | None) -> KerasFile:
    """Reads the arrays and layer names of an HDF5 file; links are not followed."""
    datasets, groups = {}, []

    def visit(name, item):
        name = name.replace("\\", "/")  # As written by Keras before 3 on Windows.
        if isinstance(item, h5py.Dataset):
            datasets[name] = item
        else:
            groups.append(name)

    file.visititems(visit)
    if "model_weights" in groups:  # Next to those of the optimizer.
        root = "model_weights/"
        datasets = {name: item for name, item in datasets.items() if name.startswith(root)}
    by_name = not any(re.search(r"(^|/)vars/\d+$", name) for name in datasets)
    if not by_name:  # Next to those of the optimizer and the metrics.
        datasets = {name: item for name, item in datasets.items() if _IN_LAYERS.search(name)}
    arrays, num_bytes = {}, 0
    for name, dataset in datasets.items():
        if dataset.dtype.kind != "f" and dataset.dtype != _BFLOAT16:  # Seeds and counters.
            continue
        if dataset.is_virtual or dataset.external:
            raise UserError(f"keeps {name} in another file; save it as one")
        num_bytes += dataset.nbytes
        _check_size(num_bytes, name)
        if by_name:
            name = "/".join(name.split("/")[-2:]).split(":")[0]
        if name in arrays:
            raise UserError(f"holds {name} twice; save the one network that is meant")
        arrays[name] = _float32(dataset[()])
    return KerasFile(arrays, by_name, frozenset(name.split("/")[-1] for name in groups), config)


def _float32(array: np.ndarray) -> np.ndarray:
    if array.dtype == _BFLOAT16:  # The upper half of a float32.
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, np.float32)


def _json(text: str | bytes | None) -> dict | None:
    config = None if text is None else json.loads(text)
    if config is not None and not isinstance(config, dict):
        raise UserError("has a configuration that is no JSON object")
    return config


def _check_size(num_bytes: int, name: str):
    if num_bytes > MAX_BYTES:
        raise UserError(f"breaks the limit of {MAX_BYTES} bytes with {name}")


@dataclasses.dataclass(frozen=True)
class InputMap:
    """Preprocessing that a model applies to pixels before its first convolution.

    `normalization` is our name for it. It is None if the model does nothing, since it may expect
    preprocessed images, or if we do not support what it does, which `unknown` then describes.
    """

    normalization: str | None
    unknown: str | None = None


def flat_layers(config: dict) -> list[dict]:
    """Returns the layer configurations of a model, with nested models expanded in place."""
    layers = []
    for layer in config["config"].get("layers", ()):
        nested = isinstance(layer["config"], dict) and "layers" in layer["config"]
        layers += flat_layers(layer) if nested else [layer]
    return layers


def image_size_of(layers: list[dict]) -> int | None:
    """Returns the side in pixels of the model's input images, or None if they are not square."""
    for layer in layers:
        if layer["class_name"] == "InputLayer":
            settings = layer["config"]
            shape = settings.get("batch_shape") or settings.get("batch_input_shape")
            height, width = shape[1:3]
            return height if height == width else None
    return None


def epsilon_of(layers: list[dict]) -> float | None:
    """Returns the epsilon of the first batch normalization, or None if there is none."""
    for layer in layers:
        if layer["class_name"] == "BatchNormalization":
            return float(layer["config"]["epsilon"])
    return None


def input_map_of(layers: list[dict], statistics: Callable[[str], Sequence[np.ndarray]]) -> InputMap:
    """Traces pixels in [0, 255] to the first convolution.

    `statistics(name)` returns mean and variance of a Normalization layer that stores them as
    weights. Source: keras.applications: V2 rescales, and the B models then normalize by constants.
    V1 rescales and normalizes by weights, in which its published files store the standard deviation
    in place of the variance. A model built with `weights="imagenet"` compensates with another
    rescaling, which models of Keras before 2.10 lack: we do not support their normalization.
    """
    scale, offset = np.ones(3), np.zeros(3)
    for layer in layers:
        kind, settings = layer["class_name"], layer["config"]
        if kind == "Conv2D":
            break
        if kind == "Rescaling":
            factor, shift = _numbers(settings["scale"]), _numbers(settings["offset"])
        elif kind == "Normalization" and not settings.get("invert"):
            mean, variance = settings.get("mean"), settings.get("variance")
            if mean is None or variance is None:
                mean, variance = statistics(settings["name"])
            factor = 1 / np.maximum(np.sqrt(_numbers(variance)), 1e-7)
            shift = -_numbers(mean) * factor
        elif kind in _KEEP_VALUES or kind.startswith("Random"):  # Augments in training only.
            continue
        else:
            return InputMap(None, f"passes them through a {kind} layer")
        scale, offset = scale * factor, offset * factor + shift
    return _named(scale, offset)


def _named(scale: np.ndarray, offset: np.ndarray) -> InputMap:
    if np.all(scale == 1) and np.all(offset == 0):
        return InputMap(None)
    for name in NORMALIZATIONS:
        our_scale, our_offset = map(np.array, scale_and_offset(name))
        black, white = offset - our_offset, (scale - our_scale) * 255 + offset - our_offset
        if np.all(np.abs([black, white]) < _TOLERANCE):
            return InputMap(name)
    numbers = [[float(f"{value:.4g}") for value in values] for values in (scale * 255, offset)]
    return InputMap(None, "multiplies pixels / 255 by {} and adds {}".format(*numbers))


def _numbers(value) -> np.ndarray:
    """Returns an array of JSON numbers, or of those in Keras' {"config": {"value": ...}}."""
    while isinstance(value, dict):
        value = value["config"]["value"]
    return np.asarray(value, np.float64).reshape(-1)


@dataclasses.dataclass(frozen=True)
class _Description:
    """Properties of a saved model, from its configuration or else from its layer names alone."""

    input_map: InputMap
    preprocessing: Preprocessing | None
    is_torch_mode: bool
    epsilon: float


def read_keras_file(path: str) -> Stored:
    """Reads `.h5`, `.weights.h5` or `.keras` of Keras 2 or 3, with or without a classifier.

    The network may be a layer of a larger model. A classifier of any name is recognized by its
    shape if it is the only dense layer. A different epsilon of batch normalization is folded into
    the variances. `preprocessing` is None if only weights were saved.

    Raises: UserError if the file cannot be read or does not contain an EfficientNet; from
    `names(model)`, if the model normalizes pixels and the weights need an unsupported
    normalization.
    """
    file = open_keras_file(path)
    return _read_by_name(path, file) if file.by_name else _read_by_order(path, file)


def _read_by_name(path: str, file: KerasFile) -> Stored:
    layout = find_layout(file.arrays)
    if layout is None:
        raise _not_ours(path, file)
    arrays = {
        name: array for name, array in file.arrays.items() if name.split("/")[-1] not in _STATISTICS
    }
    dense = _dense_layers(arrays, "/kernel")
    names = names_of_paths(arrays, layout)
    if len(dense) == 1:
        names |= {f"classifier/{kind}": f"{dense[0]}/{kind}" for kind in ("kernel", "bias")}

    def statistics(layer_name):
        return [file.arrays[f"{layer_name}/{kind}"] for kind in ("mean", "variance")]

    return _stored(
        path,
        f"{layout.package}, by name",
        _describe(path, file, statistics),
        arrays,
        lambda model: names,
        dense=dense,
        kernel="kernel",
        head=layout.head,
    )


def _read_by_order(path: str, file: KerasFile) -> Stored:
    layers = layers_by_class(file.arrays)
    if not all(layers.get(kind) for kind in ("conv2d", "depthwise_conv2d", "batch_normalization")):
        raise _not_ours(path, file)
    normalizations = layers.pop("normalization", [])
    arrays = {
        name: array
        for name, array in file.arrays.items()
        if name.rsplit("/", 2)[0] not in normalizations
    }
    left = iter(normalizations)

    def statistics(layer_name):
        layer = next(left)  # Stored in the order of the configuration.
        return [file.arrays[f"{layer}/vars/{number}"] for number in (0, 1)]

    dense = layers.get("dense", [])
    if len(dense) > 1:
        del layers["dense"]  # Which of them is the classifier is unknown.
    return _stored(
        path,
        "Keras, by order",
        _describe(path, file, statistics),
        arrays,
        lambda model: names_in_order(model, layers),
        dense=dense,
        kernel="vars/0",
        head=tuple(f"{layers[kind][-1]}/" for kind in ("conv2d", "batch_normalization")),
    )


def _stored(path, format, description, arrays, names, *, dense, kernel, head) -> Stored:
    """Builds the `Stored` of either kind of file; `dense` are the names of the dense layers."""

    def checked_names(model):
        unknown = description.input_map.unknown
        if unknown and any(layer.name == "normalization" for layer in model.layers):
            raise UserError(
                f"{path}: its model {unknown}, which is none of our normalisations; normalise so "
                f"yourself, and build {model.name} with include_preprocessing=False"
            )
        return names(model)

    return Stored(
        path=path,
        format=format,
        arrays=arrays,
        names=checked_names,
        to_ours=functools.partial(with_our_epsilon, description.epsilon),
        classifier=tuple(f"{layer}/" for layer in dense),
        head=head,
        padding="symmetric" if description.is_torch_mode else "same",
        preprocessing=description.preprocessing,
        num_classes=arrays[f"{dense[0]}/{kernel}"].shape[-1] if len(dense) == 1 else None,
    )


def _describe(path: str, file: KerasFile, statistics) -> _Description:
    if file.config is None:
        is_torch_mode = _TORCH_PADDING in file.layers
        epsilon = _TORCH_EPSILON if is_torch_mode else EPSILON
        return _Description(InputMap(None), None, is_torch_mode, epsilon)
    try:
        layers = flat_layers(file.config)
        input_map = input_map_of(layers, statistics)
        return _Description(
            input_map,
            Preprocessing(image_size_of(layers), "whole", "bilinear", input_map.normalization),
            any(layer["config"].get("name") == _TORCH_PADDING for layer in layers),
            epsilon_of(layers) or EPSILON,
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise UserError(
            f"cannot read {path}: its model_config is not as Keras writes it ({error!r})"
        ) from error


def _dense_layers(arrays, kernel: str) -> list[str]:
    return [
        name.removesuffix(kernel)
        for name, array in arrays.items()
        if name.endswith(kernel) and array.ndim == 2
    ]


def _not_ours(path: str, file: KerasFile) -> UserError:
    some = ", ".join(sorted(file.arrays)[:3]) or "no weights"
    return UserError(
        f"{path} holds no EfficientNet of keras.applications or keras_efficientnet_v2; "
        f"it holds {some}"
    )
