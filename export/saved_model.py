"""Writes a SavedModel for TensorFlow Serving, whole or not at all, and proves it."""

import os
import shutil
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.training.losses import activation_of
from export.extras import sample_images, write_card, write_labels, write_warmup
from export.frozen import ACTIVATIONS
from export.serving import SIGNATURES, ServingModule, evaluation_pixels
from hparams import Config, UserError

MAX_DIFFERENCE = 1e-4  # Of any score, between the model and its export.


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
    activation = activation_of(config.train.loss_type)
    module = ServingModule(model, config.eval.isize, config.data, class_names, activation)
    try:
        tf.saved_model.save(module, part, signatures=module.signatures())
        write_labels(part, class_names)
        write_warmup(part, config.eval.isize)
        difference = verify(part, model, config)
        write_card(part, model.name, config, weights, difference)
        os.rename(part, final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return final


def verify(path: str, model: keras.Model, config: Config) -> float:
    """Reads an export back, asks it and the model about the same images, by bytes and by pixels.

    Returns the greatest difference of a score.
    Raises: ExportMismatch if a signature is missing, or a score differs by more than 1e-4.
    """
    loaded = tf.saved_model.load(path)
    missing = set(SIGNATURES) - set(loaded.signatures)
    if missing:
        raise ExportMismatch(f"{path} lacks the signatures {', '.join(sorted(missing))}")
    encoded = sample_images()
    exact = tf.stack(
        [evaluation_pixels(image, config.eval.isize, config.data) for image in encoded]
    )
    rounded = tf.cast(tf.clip_by_value(tf.round(exact), 0, 255), tf.uint8)
    questions = {
        "serving_default": ({"image_bytes": tf.constant(encoded)}, exact),
        "predict_images": ({"images": rounded}, rounded),
        "predict_images_float": ({"images": exact}, exact),
    }
    scores_of = ACTIVATIONS[activation_of(config.train.loss_type)]
    differences = []
    for name, (inputs, pixels) in questions.items():
        expected = scores_of(tf.cast(model(pixels, training=False), tf.float32))
        answer = loaded.signatures[name](**inputs)["scores"]
        differences.append(np.max(np.abs(expected - answer)))
    difference = float(np.max(differences))  # NaN, if one is.
    if not difference <= MAX_DIFFERENCE:
        raise ExportMismatch(f"{path} differs from the model by {difference} in a score")
    return difference
