"""Stored weights, as returned by every reader, and the preprocessing that they expect."""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np

from efficientnetv2.hparams.spec import ModelSpec

EPSILON = ModelSpec.bn_epsilon  # Of batch normalization in the named architectures.


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Image preprocessing with which the weights were published or evaluated.

    Units: image_size in pixels. `crop` ("v2", "v1", "whole") and `resize_method` ("bilinear",
    "legacy_bicubic") are those of `datasets/preprocess.py`. `normalization` is applied to pixels in
    [0, 255]: "centered" is (x - 128) / 128, "imagenet" subtracts the ImageNet mean and divides by
    its standard deviation, "inception" is (x - 127.5) / 127.5. Values that a file does not specify
    are None.
    """

    image_size: int | None
    crop: str | None
    resize_method: str | None
    normalization: str | None


def unchanged(path: str, array: np.ndarray) -> np.ndarray:
    """Returns `array` unchanged, for formats that store arrays in Keras' layout."""
    return array


def with_our_epsilon(epsilon: float, path: str, array: np.ndarray) -> np.ndarray:
    """Adds the difference between `epsilon`, used in training, and `EPSILON` to a variance.

    The sum of variance and epsilon is preserved, so that inference is the same; the variance alone
    may become negative. Other arrays are returned unchanged.
    """
    if path.endswith("/moving_variance") and epsilon != EPSILON:
        return array + np.float32(epsilon - EPSILON)
    return array


@dataclasses.dataclass(frozen=True)
class Stored:
    """The weights of a file under the names of its format.

    `arrays` excludes everything that is not a weight of the network (optimizer slots, step
    counters, ...). `names(model)` returns {path of a weight of the model: its name in `arrays`}.
    `to_ours(path, array)` converts a stored array to the layout of the weight at `path`.
    `classifier` and `head` are prefixes of the names that a model without those parts ignores.
    `padding` is the one that the weights were trained with, or None if the format does not imply
    it. `preprocessing` and `num_classes` are None if the file does not specify them.
    """

    path: str
    format: str
    arrays: Mapping[str, np.ndarray]
    names: Callable[[keras.Model], dict[str, str]]
    to_ours: Callable[[str, np.ndarray], np.ndarray] = unchanged
    classifier: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    padding: str | None = "same"
    preprocessing: Preprocessing | None = None
    num_classes: int | None = None
    step: int | None = None
    used_ema: bool = False
