"""Writes a SavedModel for TensorFlow Serving, whole or not at all, and proves it."""

import os
import shutil
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.training.losses import activation_of
from export.extras import sample_images, write_card, write_labels, write_warmup
from export.serving import ServingModule
from hparams import Config, UserError

MAX_DIFFERENCE = 1e-5  # Of any score, between the model and its export.


class ExportMismatch(RuntimeError):
    """The export answers differently from the model that it was made of."""


def export_saved_model(
    model: keras.Model,
    path: str,
    config: Config,
    *,
    class_names: Sequence[str] = (),
    weights: dict | None = None,
) -> str:
    """Writes `path/VERSION/`, the next free version, verifies it and returns its path.

    The folder gets its name only when complete and verified. It holds signatures `serving_default`
    (encoded image bytes), `predict_images` (uint8 pixels) and `predict_features`,
    `assets/labels.txt`, warm-up requests in `assets.extra/` and `model_card.json`, in which
    `weights` says where the weights are from. Scores are those of `train.loss_type`.

    Raises: UserError if `path` cannot be written to; ExportMismatch if the export, read back,
    differs from the model.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the export to {path}: {error.strerror}") from error
    versions = [int(name) for name in os.listdir(path) if name.isdigit()]
    final = os.path.join(path, str(max(versions, default=0) + 1))
    part = f"{final}.part"
    shutil.rmtree(part, ignore_errors=True)
    module = _module(model, config, class_names)
    try:
        tf.saved_model.save(module, part, signatures=module.signatures())
        write_labels(part, class_names)
        write_warmup(part, config.eval.isize)
        difference = verify(part, model, config, class_names=class_names)
        write_card(part, model.name, config, weights, difference)
        os.rename(part, final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return final


def verify(
    path: str, model: keras.Model, config: Config, *, class_names: Sequence[str] = ()
) -> float:
    """Reads an export back, asks it and the model about the same images, by bytes and by pixels.

    Returns the greatest difference of a score.
    Raises: ExportMismatch if a signature is missing, or a score differs by more than 1e-5.
    """
    loaded = tf.saved_model.load(path)
    module = _module(model, config, class_names)
    missing = set(module.signatures()) - set(loaded.signatures)
    if missing:
        raise ExportMismatch(f"{path} lacks the signatures {', '.join(sorted(missing))}")
    image_bytes = tf.constant(sample_images())
    rounded = tf.clip_by_value(tf.round(module.pixels(image_bytes)), 0, 255)
    questions = {
        "serving_default": {"image_bytes": image_bytes},
        "predict_images": {"images": tf.cast(rounded, tf.uint8)},
    }
    differences = []
    for name, inputs in questions.items():
        expected = module.signatures()[name](**inputs)["scores"]
        answer = loaded.signatures[name](**inputs)["scores"]
        differences.append(np.max(np.abs(expected - answer)))
    difference = float(np.max(differences))  # NaN, if one is.
    if not difference <= MAX_DIFFERENCE:
        raise ExportMismatch(f"{path} differs from the model by {difference} in a score")
    return difference


def _module(model: keras.Model, config: Config, class_names: Sequence[str]) -> ServingModule:
    activation = activation_of(config.train.loss_type)
    return ServingModule(model, config.eval.isize, config.data, class_names, activation)
