"""Model card (`model_card.json`): source, signatures, deviations and checksums of an export.

Deviations from the official code are listed as text; the reasons, and the deviations that affect
only training, are in docs/deviations.md.
"""

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.common.errors import UserError
from efficientnetv2.common.files import sha256_of
from efficientnetv2.export.serving import TOP_K
from efficientnetv2.hparams import Config, model_layer, settings_of
from efficientnetv2.hparams.overrides import flatten, override
from efficientnetv2.network.compat import tf_variable, var_path
from efficientnetv2.network.model import normalization_of
from efficientnetv2.training.losses import activation_of

_OF_EVERY_EXPORT = (
    "predict_images takes uint8: resized pixels are rounded, up to half a level from "
    "serving_default, which keeps them as resized, as officially",
    "BatchNorm and the scale of pixels are folded into the convolutions: scores differ by rounding",
    "images of more than max_pixels pixels are refused",
    "8-bit BMP files are read through their palette",
)
_OF_A_MODEL = {
    "efficientnet-b3": "24 channels in the first stage, as V1 has it, officially 16",
}
_CHANGE_THE_ANSWER = ("model.", "eval.isize", "data.eval_crop", "data.resize_method")
_OF_TRAINING_ALONE = (
    "model.model_name",
    "model.dropout_rate",
    "model.dropout_base",
    "model.survival_prob",
    "model.bn_momentum",
)
CARD_FILE = "model_card.json"


def deviations(config: Config, adapted: Iterable[str] = ()) -> list[str]:
    """Returns a sentence per deviation; `adapted`: changes made when the weights were loaded."""
    name = config.model.model_name
    named = [_OF_A_MODEL[name]] if name in _OF_A_MODEL else []
    official = override(Config(), flatten(model_layer(name, config.train.schedule)))
    theirs = dict(settings_of(official))
    settings = [
        f"{key}={value}, by default {theirs[key] or 'as the model has it'}"
        for key, value in settings_of(config)
        if key.startswith(_CHANGE_THE_ANSWER)
        and key not in _OF_TRAINING_ALONE
        and value != theirs[key]
    ]
    return [*_OF_EVERY_EXPORT, *named, *adapted, *settings]


def write_card(
    path: str,
    model: keras.Model,
    config: Config,
    *,
    weights: dict,
    metrics: dict | None,
    signatures: dict,
    difference: float,
    formats: dict,
) -> None:
    """Writes the card; must be called last, since it contains the checksums of all other files.

    Args:
        weights: the source of the weights; `sha256` of their values is added.
        metrics: an evaluation of them, {"step", "loss", …}, or None if there was none.
        signatures: see `signatures_of`.
        difference: the largest of any score, between `model` and the export.
        formats: the result of `write_formats`.
    """
    card = {
        "model": model.name,
        "num_classes": config.data.num_classes,
        "activation": activation_of(config.train.loss_type),
        "preprocessing": {
            "image_size": config.eval.isize,
            "crop": config.data.eval_crop,
            "resize_method": config.data.resize_method,
            "normalization": normalization_of(config.model),
            "where": "all of it in the graph",
        },
        "max_pixels": config.data.max_pixels,
        "deviations": deviations(config, weights.get("adapted", ())),
        "signatures": signatures,
        "weights": {**weights, "sha256": weights_sha256(model)},
        "metrics": metrics,
        "max_score_difference_to_the_model": difference,
        "formats": formats,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "files": file_digests(path),
        "config": dataclasses.asdict(config),
    }
    with open(os.path.join(path, CARD_FILE), "w", encoding="utf-8") as file:
        json.dump(card, file, indent=2)


def read_card(path: str) -> dict:
    """Returns the card of an export.

    Raises: UserError if there is none, or if it lacks fields such as the checksums, as a card of
    an earlier version does.
    """
    place = os.path.join(path, CARD_FILE)
    try:
        with open(place, encoding="utf-8") as file:
            card = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {place}: {error}; export again") from error
    if not isinstance(card, dict):
        raise UserError(f"{place} holds no card but {type(card).__name__}; export again")
    missing = {"files", "signatures", "num_classes", "activation", "preprocessing"} - set(card)
    if missing:
        raise UserError(f"{place} lacks {', '.join(sorted(missing))}; export again")
    return card


def file_digests(path: str) -> dict[str, dict]:
    """Returns {file: {"sha256", "bytes"}} of all files of an export except its card, sorted."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            place = os.path.join(folder, name)
            relative = os.path.relpath(place, path).replace(os.sep, "/")
            if relative == CARD_FILE:
                continue
            found[relative] = {"sha256": sha256_of(place), "bytes": os.path.getsize(place)}
    return dict(sorted(found.items()))


def weights_sha256(model: keras.Model) -> str:
    """Returns a digest of the names and values of all weights, in the order of their names.

    Equal weights have equal digests, on either Keras generation.
    """
    digest = hashlib.sha256()
    for path, weight in sorted(((var_path(w), w) for w in model.weights), key=lambda pair: pair[0]):
        value = np.asarray(tf_variable(weight).numpy())
        digest.update(f"{path} {value.dtype.name} {value.shape}\n".encode())
        digest.update(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def signatures_of(loaded) -> dict:
    """Returns {signature: {"inputs" | "outputs": {name: {"dtype", "shape"}}}} of a SavedModel.

    `loaded` is the result of `tf.saved_model.load`; None in a shape means any size.
    """
    return {
        name: {
            "inputs": _described(function.structured_input_signature[1]),
            "outputs": _described(function.structured_outputs),
        }
        for name, function in loaded.signatures.items()
    }


def expected_signatures(
    image_size: int, num_classes: int, labelled: bool, num_features: int
) -> dict:
    """Returns the signatures that an export must have, in the form of `signatures_of`."""
    answers = {
        "scores": _spec("float32", [None, num_classes]),
        "classes": _spec("int64", [None, min(TOP_K, num_classes)]),
    }
    if labelled:
        answers["labels"] = _spec("string", [None, min(TOP_K, num_classes)])
    pixels = [None, image_size, image_size, 3]
    features = {"features": _spec("float32", [None, num_features])}
    rows = {
        "serving_default": ("image_bytes", "string", [None], answers),
        "predict_images": ("images", "uint8", pixels, answers),
        "predict_images_float": ("images", "float32", pixels, answers),
        "predict_features": ("images", "uint8", pixels, features),
    }
    return {
        name: {"inputs": {key: _spec(dtype, shape)}, "outputs": outputs}
        for name, (key, dtype, shape, outputs) in rows.items()
    }


def first_difference(found: dict, expected: dict) -> str | None:
    """Describes the first difference between signatures; returns None if they are equal."""
    for name in [*expected, *(set(found) - set(expected))]:
        mine, theirs = found.get(name), expected.get(name)
        if mine is None or theirs is None:
            return f"signature {name} is {'missing' if mine is None else 'additional'}"
        for side in ("inputs", "outputs"):
            for key in sorted({*mine[side], *theirs[side]}):
                one, other = (_text(sides[side].get(key)) for sides in (mine, theirs))
                if one != other:
                    return f"{name}, {side[:-1]} {key}: {one}, expected {other}"
    return None


def _spec(dtype: str, shape: list) -> dict:
    return {"dtype": dtype, "shape": shape}


def _text(spec: dict | None) -> str:
    return "none" if spec is None else f"{spec['dtype']} {spec['shape']}"


def _described(tensors: dict) -> dict:
    return {name: _spec(t.dtype.name, t.shape.as_list()) for name, t in sorted(tensors.items())}
