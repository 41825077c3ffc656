"""`model_card.json`: what an export is, where it is from, and the checksums of its files."""

import dataclasses
import datetime
import hashlib
import json
import os

import keras
import numpy as np
import tensorflow as tf

from efficientnetv2.compat import tf_variable, var_path
from efficientnetv2.from_config import normalization_of
from efficientnetv2.training.losses import activation_of
from export.deviations import deviations
from hparams import Config, UserError

CARD_FILE = "model_card.json"


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
    """Writes the card; last of all, for it holds the checksums of every other file.

    Args:
        weights: where the weights are from; `sha256` of their values is added.
        metrics: an evaluation of them, {"step", "loss", …}, or None if there was none.
        signatures: see `contract.signatures_of`.
        difference: the greatest of a score, between `model` and the export.
        formats: what `write_formats` returns.
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

    Raises: UserError if there is none, or it has no checksums: it is of an earlier version.
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
    """Returns {file: {"sha256", "bytes"}} of all files of an export but its card, sorted."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            place = os.path.join(folder, name)
            relative = os.path.relpath(place, path).replace(os.sep, "/")
            if relative == CARD_FILE:
                continue
            with open(place, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[relative] = {"sha256": digest, "bytes": os.path.getsize(place)}
    return dict(sorted(found.items()))


def weights_sha256(model: keras.Model) -> str:
    """A digest of the names and values of all weights, in the order of their names.

    Equal for equal weights, on either Keras generation.
    """
    digest = hashlib.sha256()
    for path, weight in sorted(((var_path(w), w) for w in model.weights), key=lambda pair: pair[0]):
        value = np.asarray(tf_variable(weight).numpy())
        digest.update(f"{path} {value.dtype.name} {value.shape}\n".encode())
        digest.update(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
