"""Weights that a file knows by number only: "the fourth convolution's second".

Source: Keras' `.weights.h5`, and the one inside `.keras`: `layers/conv2d_3/vars/1` is a weight of
the fourth layer of that class, in the order in which the model lists its layers. A functional
EfficientNet lists them as it uses them, whoever wrote it, so the order is that of our own.
"""

import re
from collections.abc import Iterable

import keras

from efficientnetv2.blocks import FusedMBConv, MBConv
from efficientnetv2.compat import var_path

_NUMBERS = {  # Of the weights of a layer, in the order in which Keras makes them.
    "kernel": 0,
    "bias": 1,
    "gamma": 0,
    "beta": 1,
    "moving_mean": 2,
    "moving_variance": 3,
}


def layers_by_class(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns {class: the paths of its layers, in order} for `layers/conv2d_3/vars/0` and so on.

    Those of a nested model follow each other, whatever else the file has.
    """
    found = {}
    for name in names:
        match = re.fullmatch(r"((?:.*/)?)([^/]*?)(?:_(\d+))?/vars/\d+", name)
        if match:
            parent, kind, number = match.groups()
            layer = name.rsplit("/", 2)[0]
            found.setdefault(kind, {})[layer] = (parent, int(number or 0))
    return {kind: sorted(layers, key=layers.get) for kind, layers in found.items()}


def names_in_order(model: keras.Model, layers: dict[str, list[str]]) -> dict[str, str]:
    """Returns {our path: name in the file} for every weight of a model that `build_model` built.

    A path whose layer is beyond the last of its class in the file is left out.
    """
    numbers, names = {}, {}
    for layer in _layers_in_use(model):
        kind = _class_in_files(layer)
        number = numbers[kind] = numbers.get(kind, -1) + 1
        if number < len(layers.get(kind, ())):
            for weight in layer.weights:
                path = var_path(weight)
                position = _NUMBERS[path.split("/")[-1]]
                names[path] = f"{layers[kind][number]}/vars/{position}"
    return names


def _layers_in_use(model: keras.Model):
    """The innermost layers with weights, in the order in which they are used."""
    for layer in model.layers:
        steps = layer.steps if isinstance(layer, (MBConv, FusedMBConv)) else [layer]
        for step in steps:
            parts = [step.reduce_conv, step.expand_conv] if step.name == "se" else [step]
            yield from (part for part in parts if part.weights)


def _class_in_files(layer) -> str:
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return "depthwise_conv2d"
    if isinstance(layer, keras.layers.Conv2D):
        return "conv2d"
    return "dense" if isinstance(layer, keras.layers.Dense) else "batch_normalization"
