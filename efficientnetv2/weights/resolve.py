"""Resolution of the `weights` argument: a name of published weights, or a path."""

import dataclasses
import glob
import os

import keras
from absl import logging

from efficientnetv2.common.errors import UserError
from efficientnetv2.hparams import CONFIG_FILE, nearest
from efficientnetv2.weights.download import fetch
from efficientnetv2.weights.load import LoadReport, assign, read_weights
from efficientnetv2.weights.pretrained import TAGS, Pretrained, get_pretrained
from efficientnetv2.weights.stored import Stored


@dataclasses.dataclass(frozen=True)
class Opened:
    """Weights that were read, and the config settings that they imply, by key.

    `labels` names a list of class names, or is None if they are unknown.
    """

    stored: Stored
    settings: dict
    labels: str | None


def pretrained_row(model_name: str, weights: str) -> Pretrained | None:
    """Returns the row of published weights if `weights` is such a name, or None for a path.

    Raises: UserError if the model has no weights of that name, or if it is neither name nor path.
    """
    if weights in TAGS:
        return get_pretrained(model_name, weights)
    is_word = os.sep not in weights and not os.path.splitext(weights)[1]
    if is_word and not glob.glob(f"{glob.escape(weights)}*"):
        raise UserError(f"weights {weights!r} are no file, nor published{nearest(weights, TAGS)}")
    return None


def load_into(
    model: keras.Model,
    weights: str,
    pretrained: Pretrained | None,
    *,
    keep_normalization: bool = False,
) -> LoadReport:
    """Loads published weights, downloaded on first use, or a path, into `model`.

    A published classifier is dropped, with a warning, if the number of classes differs. A file's
    normalization replaces the model's, unless `keep_normalization`.
    Raises: UserError as `load_weights` does, or if the download fails.
    """
    if pretrained is None:
        stored = read_weights(weights)
        known = None if keep_normalization else stored.preprocessing
        return assign(model, stored, normalization=known and known.normalization)
    names = [layer.name for layer in model.layers]
    others = "classifier" in names and pretrained.num_classes != model.output_shape[-1]
    if others:
        logging.warning(
            "%s %s has %d classes, the model %d: its classifier starts at random",
            pretrained.model_name,
            pretrained.tag,
            pretrained.num_classes,
            model.output_shape[-1],
        )
    return assign(model, read_weights(fetch(pretrained)), but=("classifier",) if others else ())


def open_weights(model_name: str, weights: str, use_ema: bool = True) -> Opened:
    """Reads published weights, downloaded on first use, or a path.

    Raises: UserError as `load_weights` does, if the download fails, for an architecture of Keras,
    or for a run, whose settings are stored next to its checkpoints.
    """
    if model_name.startswith("keras/"):
        raise UserError(f"{model_name} takes its weights from a run: give --model_dir")
    pretrained = pretrained_row(model_name, weights)
    stored = read_weights(fetch(pretrained) if pretrained else weights, use_ema)
    run = os.path.dirname(stored.path)
    if stored.format == "run" and os.path.exists(os.path.join(run, CONFIG_FILE)):
        raise UserError(f"{weights} is of a run, which knows its settings: give --model_dir={run}")
    preprocessing = pretrained.preprocessing if pretrained else stored.preprocessing
    settings = {"data.num_classes": stored.num_classes or _classes_in(stored)}
    if stored.padding not in (None, "same"):
        settings["model.padding"] = stored.padding
    if preprocessing is not None:
        settings["eval.isize"] = preprocessing.image_size
        settings["data.eval_crop"] = preprocessing.crop
        settings["data.resize_method"] = preprocessing.resize_method
        settings["model.normalization"] = preprocessing.normalization
    known = {key: value for key, value in settings.items() if value is not None}
    imagenet = pretrained is not None and pretrained.num_classes == 1000
    return Opened(stored, known, "imagenet" if imagenet else None)


def _classes_in(stored: Stored) -> int:
    """Returns the number of classes, which is the number of the classifier's biases."""
    for name, array in stored.arrays.items():
        if name.startswith(stored.classifier) and array.ndim == 1:
            return len(array)
    raise UserError(f"{stored.path} has no classifier; it can name no classes")
