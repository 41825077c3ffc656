"""What every reader of a weights file returns, whatever the format."""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np

from efficientnetv2.weights.preprocessing import Preprocessing
from hparams.architectures import ModelSpec

EPSILON = ModelSpec.bn_epsilon  # Of batch normalisation in the named architectures.


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
