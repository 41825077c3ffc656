"""What the configuration in a Keras file says of the images that the model takes."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from efficientnetv2.preprocessing_layers import scale_and_offset
from hparams.config import NORMALIZATIONS

_KEEP_VALUES = ("InputLayer", "ZeroPadding2D", "Resizing", "CenterCrop")
_TOLERANCE = 1e-3  # Of a normalised value; (x - 128) / 128 and (x - 127.5) / 127.5 differ by 8e-3.


@dataclasses.dataclass(frozen=True)
class InputMap:
    """What a model does to pixels before its first convolution.

    `normalization` is our name for it. It is None where the model does nothing, as it may take
    prepared images, and where it does something that we have no name for, which `unknown` says.
    """

    normalization: str | None
    unknown: str | None = None


def flat_layers(config: dict) -> list[dict]:
    """Returns the descriptions of a model's layers, those of nested models in their place."""
    layers = []
    for layer in config["config"].get("layers", ()):
        nested = isinstance(layer["config"], dict) and "layers" in layer["config"]
        layers += flat_layers(layer) if nested else [layer]
    return layers


def image_size_of(layers: list[dict]) -> int | None:
    """The side in pixels of the square images that the model takes, None if it takes others."""
    for layer in layers:
        if layer["class_name"] == "InputLayer":
            settings = layer["config"]
            shape = settings.get("batch_shape") or settings.get("batch_input_shape")
            height, width = shape[1:3]
            return height if height == width else None
    return None


def epsilon_of(layers: list[dict]) -> float | None:
    """The epsilon of the first batch normalisation, None if there is none."""
    for layer in layers:
        if layer["class_name"] == "BatchNormalization":
            return float(layer["config"]["epsilon"])
    return None


def input_map_of(layers: list[dict], statistics: Callable[[str], Sequence[np.ndarray]]) -> InputMap:
    """Follows pixels in [0, 255] to the first convolution.

    `statistics(name)` gives mean and variance of a Normalization that keeps them among the
    weights. Source: keras.applications: V2 rescales, and the B models then normalise by constants.
    V1 rescales and normalises by weights, in which its published files have the standard deviation
    for the variance; a model made with `weights="imagenet"` makes up for that with one rescaling
    more, which models of Keras before 2.10 lack: theirs is a normalisation that we do not have.
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
    """Numbers as JSON has them, or as Keras wraps an array: {"config": {"value": ...}}."""
    while isinstance(value, dict):
        value = value["config"]["value"]
    return np.asarray(value, np.float64).reshape(-1)
