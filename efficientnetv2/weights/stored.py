"""Stored weights: what every weights reader returns, and the preprocessing they expect."""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np

from efficientnetv2.hparams.spec import ModelSpec

EPSILON = ModelSpec.bn_epsilon  # Of batch normalisation in the named architectures.


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the images were prepared on which the weights were published or evaluated.

    Units: image_size in pixels. `crop` ("v2", "v1", "whole") and `resize_method` ("bilinear",
    "legacy_bicubic") are those of `datasets/preprocess.py`. `normalization` says what pixels in
    [0, 255] become: "centered" is (x - 128) / 128, "imagenet" subtracts the ImageNet mean and
    divides by its standard deviation, "inception" is (x - 127.5) / 127.5. None is what a file does
    not tell.
    """

    image_size: int | None
    crop: str | None
    resize_method: str | None
    normalization: str | None


def unchanged(path: str, array: np.ndarray) -> np.ndarray:
    """The layout of a format that stores arrays as Keras does."""
    return array


def with_our_epsilon(epsilon: float, path: str, array: np.ndarray) -> np.ndarray:
    """A variance that was trained with `epsilon` takes up the difference to `EPSILON`.

    Their sum stays, so that inference is the same; the variance alone may become negative.
    """
    if path.endswith("/moving_variance") and epsilon != EPSILON:
        return array + np.float32(epsilon - EPSILON)
    return array


@dataclasses.dataclass(frozen=True)
class Stored:
    """The weights of a file under the names of its format.

    `arrays` leaves out what is no weight of the network (optimizer slots, step counters, ...).
    `names(model)` gives {path of a weight of the model: its name in `arrays`}.
    `to_ours(path, array)` turns a stored array into the layout of the weight at `path`.
    `classifier` and `head` are prefixes of the names that a model without those parts leaves
    aside. `padding` is what the weights were trained with, None where the file cannot know.
    `preprocessing` and `num_classes` are None where the file does not tell.
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
