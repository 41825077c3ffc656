"""Writes a SavedModel for TensorFlow Serving, whole or not at all, and proves it."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from efficientnetv2.training.checkpoint_files import writing
from efficientnetv2.training.losses import activation_of
from export.card import write_card
from export.contract import signatures_of
from export.extras import write_labels, write_warmup
from export.other_formats import check_formats, write_formats
from export.parity import ExportMismatch
from export.samples import MAX_DIFFERENCE, Questions, ask_model, score_difference, write_expected
from export.serving import SIGNATURES, ServingModule
from export.versions import new_version
from hparams import Config


def export_saved_model(
    model: keras.Model,
    path: str,
    config: Config,
    *,
    class_names: Sequence[str] = (),
    weights: dict | None = None,
    metrics: dict | None = None,
    version: int | None = None,
    formats: Sequence[str] = (),
) -> str:
    """Writes `path/VERSION/`, verifies it and returns its path.

    The version is `version`, or the next free one. The folder gets its name only when complete
    and verified. It holds signatures `serving_default` (encoded image bytes), `predict_images`
    (uint8 pixels), `predict_images_float` and `predict_features`, `assets/labels.txt`, in
    `assets.extra/` warm-up requests and the scores of the model for some images, and
    `model_card.json`, in which `weights` says where the weights are from and `metrics` what they
    reach, see `write_card`. Scores are those of `train.loss_type`. `formats`: names of `FORMATS`,
    whose files lie beside the SavedModel; see `write_formats`.

    Raises: UserError if `path` cannot be written to, or has this version, or a format lacks
    something; ExportMismatch if the export, read back, differs from the model.
    """
    others = check_formats(formats)
    activation = activation_of(config.train.loss_type)
    with new_version(path, version) as (part, final):
        module = ServingModule(model, config.eval.isize, config.data, class_names, activation)
        questions = ask_model(model, config)
        with writing(f"the export to {path}"):
            tf.saved_model.save(module, part, signatures=module.signatures())
            write_labels(part, class_names)
            write_warmup(part, config.eval.isize)
            write_expected(part, questions)
            of_formats = write_formats(others, module.graph, model, config, part)
        difference, signatures = _read_back(part, questions)
        with writing(f"the export to {path}"):
            write_card(
                part,
                model,
                config,
                weights=weights or {},
                metrics=metrics,
                signatures=signatures,
                difference=difference,
                formats=of_formats,
            )
    return final


def verify(path: str, model: keras.Model, config: Config) -> float:
    """Reads an export back, asks it and the model about the same images, by bytes and by pixels.

    Returns the greatest difference of a score.
    Raises: ExportMismatch if a signature is missing, or a score differs by more than 1e-4.
    """
    return _read_back(path, ask_model(model, config))[0]


def _read_back(path: str, questions: Questions) -> tuple[float, dict]:
    """Returns what `verify` does, and the signatures as they were read."""
    loaded = tf.saved_model.load(path)
    missing = set(SIGNATURES) - set(loaded.signatures)
    if missing:
        raise ExportMismatch(f"{path} lacks the signatures {', '.join(sorted(missing))}")
    difference = score_difference(loaded, questions)
    if not difference <= MAX_DIFFERENCE:
        raise ExportMismatch(f"{path} differs from the model by {difference} in a score")
    return difference, signatures_of(loaded)
