"""Reads files that Keras saved: EfficientNets of keras.applications and keras_efficientnet_v2."""

import dataclasses
import functools

from efficientnetv2.weights.keras_configs import (
    InputMap,
    epsilon_of,
    flat_layers,
    image_size_of,
    input_map_of,
)
from efficientnetv2.weights.keras_h5 import KerasFile, open_keras_file
from efficientnetv2.weights.keras_names import find_layout, names_of_paths
from efficientnetv2.weights.keras_order import layers_by_class, names_in_order
from efficientnetv2.weights.preprocessing import Preprocessing
from efficientnetv2.weights.stored import EPSILON, Stored, with_our_epsilon
from hparams import UserError

_STATISTICS = ("mean", "variance", "count")  # The weights of a Normalization.
_TORCH_PADDING = "stem_pad"  # A layer of keras_efficientnet_v2's `is_torch_mode`, ...
_TORCH_EPSILON = 1e-5  # ... which has this epsilon too.


@dataclasses.dataclass(frozen=True)
class _Description:
    """What the configuration says; of a file without one only what its layers' names tell."""

    input_map: InputMap
    preprocessing: Preprocessing | None
    is_torch_mode: bool
    epsilon: float


def read_keras_file(path: str) -> Stored:
    """Reads `.h5`, `.weights.h5` or `.keras`, of Keras 2 or 3, with or without a classifier.

    The network may be a layer of a larger model. A classifier of any name is known by its shape if
    it is the only dense layer. Another epsilon of batch normalisation goes into the variances.
    `preprocessing` is None where only weights were saved.

    Raises: UserError if the file cannot be read or holds no EfficientNet; from `names(model)`, if
    a model that normalises pixels is given weights for a normalisation that we do not have.
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
        layer = next(left)  # They come in the order of the configuration.
        return [file.arrays[f"{layer}/vars/{number}"] for number in (0, 1)]

    dense = layers.get("dense", [])
    if len(dense) > 1:
        del layers["dense"]  # None of them is known to be the classifier.
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
    """What both kinds of file have in common; `dense` are the dense layers' names."""

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
